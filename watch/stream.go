package watch

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/contexts"
)

// Source is what can be watched: a *kv.Store, of []byte, or a *kv.Typed[T].
type Source[T any] interface {
	Watch(ctx context.Context, prefix string, opts ...kv.WatchOption) (*kv.Watch[T], error)
}

// KeySource is what has keys to watch: a *kv.Store or a *kv.Typed[T].
type KeySource[T any] interface {
	WatchKey(ctx context.Context, key string, opts ...kv.WatchOption) (*kv.Watch[T], error)
}

// Stream is events to pull: a *kv.Watch[T] or a *Subscription[T].
type Stream[T any] interface {
	Next(ctx context.Context) (kv.Event[T], error)
	Close() error
}

// Result is an event or an error on a channel.
type Result[T any] struct {
	Event kv.Event[T]
	Err   error
}

// Chan puts s on a channel, for select. It closes s and then the channel when
// ctx ends or after an error that is final, which comes first; one that matches
// *codec.Error comes with its event. The channel has no buffer: what waits for
// its reader is bounded by s. An event costs more here than in Next; the token
// of an event is the place to resume from, not where the watch has come to.
func Chan[T any](ctx context.Context, s Stream[T]) <-chan Result[T] {
	contexts.Require(ctx)
	out := make(chan Result[T])
	go func() {
		defer close(out)
		defer s.Close()
		for {
			ev, err := s.Next(ctx)
			select {
			case out <- Result[T]{ev, err}:
			case <-ctx.Done():
				return
			}
			if err != nil && !bad(err) {
				return
			}
		}
	}()
	return out
}

// bad reports whether err is about one value only.
func bad(err error) bool {
	var undecodable *codec.Error
	return errors.As(err, &undecodable)
}

// Batches gathers the events that come within interval of the first, merged
// per key: a key that was created and updated was created, one that came and
// went is left out, one that went and came again was deleted and created. The
// last event of a batch has the Token to resume from, and no other one has: a
// batch is taken in whole. It closes s when the loop is left. An error that
// matches *codec.Error comes alone, after the batch in whose time it fell, and
// the loop may go on; any other is the last thing that is yielded, after the
// events before it. Events without a key, as Synced, are not merged.
func Batches[T any](s Stream[T], interval time.Duration) iter.Seq2[[]kv.Event[T], error] {
	return func(yield func([]kv.Event[T], error) bool) {
		defer s.Close()
		for {
			ev, err := s.Next(context.Background())
			if err != nil && !bad(err) {
				yield(nil, err)
				return
			}
			var b batch[T]
			var undecodable []error
			ctx, cancel := context.WithTimeout(context.Background(), interval)
			for err == nil || bad(err) {
				if err != nil {
					undecodable = append(undecodable, err)
				} else {
					b.add(ev)
				}
				ev, err = s.Next(ctx)
			}
			timeout := ctx.Err() != nil && errors.Is(err, ctx.Err())
			cancel()
			if events := b.events(); len(events) > 0 && !yield(events, nil) {
				return
			}
			for _, err := range undecodable {
				if !yield(nil, err) {
					return
				}
			}
			if !timeout {
				yield(nil, err)
				return
			}
		}
	}
}

// batch merges events.
type batch[T any] struct {
	all   []kv.Event[T] // Kind 0: merged away
	away  int           // how many of them are
	last  map[string]int
	token kv.Token // of the last event
}

func (b *batch[T]) add(ev kv.Event[T]) {
	b.token = ev.Token
	ev.Token = ""
	if ev.Key == "" {
		b.all = append(b.all, ev)
		return
	}
	i, ok := b.last[ev.Key]
	if !ok {
		if b.last == nil {
			b.last = map[string]int{}
		}
		b.last[ev.Key] = len(b.all)
		b.all = append(b.all, ev)
		return
	}
	was := b.all[i]
	switch {
	case was.Kind == kv.Deleted:
		// It came again: the delete stays, and the new key follows, perhaps
		// with its second value, as the first did not decode.
		if ev.Kind == kv.Updated {
			ev.Kind, ev.Prev = kv.Created, nil
		}
		b.last[ev.Key] = len(b.all)
		b.all = append(b.all, ev)
		return
	case was.Kind != kv.Updated && ev.Kind == kv.Deleted: // Created or Existing
		b.all[i] = kv.Event[T]{}
		delete(b.last, ev.Key)
		b.away++
		b.compact()
		return
	case was.Kind != kv.Updated && ev.Kind == kv.Updated:
		ev.Kind = was.Kind // Created or Existing, with the newer value
	}
	ev.Prev = was.Prev
	b.all[i] = ev
}

// compact lets go of what was merged away, so that keys that come and go cost
// nothing, however long the interval is.
func (b *batch[T]) compact() {
	if b.away < 64 || b.away <= len(b.all)/2 {
		return
	}
	b.all, b.away = b.left(), 0
	for i, ev := range b.all {
		if ev.Key != "" {
			b.last[ev.Key] = i
		}
	}
}

// left is what was not merged away.
func (b *batch[T]) left() []kv.Event[T] {
	return slices.DeleteFunc(b.all, func(ev kv.Event[T]) bool { return ev.Kind == 0 })
}

func (b *batch[T]) events() []kv.Event[T] {
	out := b.left()
	if len(out) > 0 {
		out[len(out)-1].Token = b.token
	}
	return out
}
