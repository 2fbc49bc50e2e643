package kv

import (
	"bytes"
	"context"
	"errors"
	"iter"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

// Watch is an open event stream. Next and Events are for one goroutine at a
// time; the other methods may be called beside them.
//
// The stream survives connection loss, leader change, session expiry and
// restarts of the server without losing a change. On a store that is Lossless
// every revision is delivered, in one order; elsewhere changes of one key may
// be merged, but its last state always arrives, and a key that was deleted and
// recreated in between gives Deleted and Created. When the store no longer has
// what was missed, a watch FromSnapshot delivers Resynced, the differences and
// Synced, and any other ends with ErrHistoryLost.
//
// Watches of one prefix of one store share what they cost the server. A reader
// that does not come holds up nobody: what waits for it is bounded by
// WatchBuffer, beyond which a Lossless store's history is the buffer, and
// events of one key are merged elsewhere.
type Watch[T any] struct {
	r        reader[T]
	sub      *subscription
	keysOnly bool
	progress bool
}

func (r reader[T]) watch(ctx context.Context, full string, key bool, opts []WatchOption) (*Watch[T], error) {
	var o watchOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.watch(o)
		}
	}
	c := r.s.core
	o.Key = key
	switch {
	case o.Snapshot && o.resume:
		return nil, c.fail(OpWatch, full, backend.Because(ErrInvalid, errors.New("Resume beside FromSnapshot")))
	case o.resume && !c.b.Capabilities().Resumable:
		return nil, c.fail(OpWatch, full, unsupportedResume)
	case o.resume && o.Resume == "":
		// To begin at the present instead would be a gap that nobody sees.
		return nil, c.fail(OpWatch, full, backend.Because(ErrInvalid, errors.New("an empty resume token")))
	}
	var sub *subscription
	if err := c.do(ctx, OpWatch, full, func(opening context.Context) (err error) {
		sub, err = c.subscribe(ctx, opening, full, o)
		return err
	}); err != nil {
		if sub != nil { // an interceptor turned success into failure
			sub.close(ErrClosed)
		}
		return nil, err
	}
	return &Watch[T]{r: r, sub: sub, keysOnly: o.keysOnly, progress: o.progress}, nil
}

// Next waits for the next event. ctx bounds this call, not the watch. An error
// that matches *codec.Error is about the one event that comes with it; any
// error but that and ctx's own is final and comes again from every later call:
// that of the context the watch was opened with, ErrClosed after Close of the
// watch or the store, ErrHistoryLost, ErrPermission.
func (w *Watch[T]) Next(ctx context.Context) (Event[T], error) {
	contexts.Require(ctx)
	c := w.r.s.core
	for {
		ev, err := w.sub.next(ctx)
		if err != nil {
			return Event[T]{}, c.fail(OpWatch, w.sub.key.name, err)
		}
		if ev.Kind == Progress && !w.progress {
			continue
		}
		return w.event(ev)
	}
}

// event converts ev. Its values are shared with the prefix's other watches; a
// codec keeps nothing of them, and without one they are copied.
func (w *Watch[T]) event(ev backend.Event) (Event[T], error) {
	out := Event[T]{Kind: ev.Kind, Token: ev.Token}
	if ev.Entry.Key == "" {
		out.Revision = ev.Revision
		return out, nil
	}
	var err error
	if w.r.c == nil {
		ev.Value = bytes.Clone(ev.Value)
	}
	out.Entry, err = w.r.entry(ev.Entry, !w.keysOnly && ev.Kind != Deleted)
	if ev.Prev != nil {
		prev := *ev.Prev
		if w.r.c == nil {
			prev.Value = bytes.Clone(prev.Value)
		}
		// A previous value that does not decode is left out: the event is
		// about the new one.
		if p, err := w.r.entry(prev, !w.keysOnly); err == nil {
			out.Prev = &p
		}
	}
	return out, w.r.s.core.fail(OpWatch, ev.Entry.Key, err)
}

// Events yields what Next returns, and closes the watch when the loop is left.
// An error that matches *codec.Error comes with its event and the loop may go
// on; any other is the last thing that is yielded.
func (w *Watch[T]) Events() iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		defer w.Close()
		for {
			ev, err := w.Next(context.Background())
			final := err != nil && ev.Kind == 0
			if !yield(ev, err) || final {
				return
			}
		}
	}
}

// Sync returns when the reader has come back, for more, from all writes that
// were complete when Sync was called: what it keeps of the events is then at
// least as new as they are. It asks the store once, and waits for the reader,
// so it is for another goroutine than the one in Next. A watch WithProgress
// has had a Progress event behind those writes by then. For a store that is away
// a ctx without a deadline waits five seconds, and for the reader without limit.
// Errors: ErrUnavailable, those with which the watch ended, and ctx's.
func (w *Watch[T]) Sync(ctx context.Context) error {
	contexts.Require(ctx)
	return w.r.s.core.fail(OpWatch, w.sub.key.name, w.sub.sync(ctx))
}

// Lossless reports whether the store delivers every revision, in one order.
func (w *Watch[T]) Lossless() bool { return w.sub.h.lossless }

// Health tells when the store was last heard and since when it is not
// reachable.
func (w *Watch[T]) Health() Health { return w.sub.health() }

// Close ends the watch and releases what is behind it. It is idempotent; Next
// then returns ErrClosed.
func (w *Watch[T]) Close() error {
	w.sub.close(ErrClosed)
	return nil
}
