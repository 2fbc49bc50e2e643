package watch

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

// ErrSlow ends a subscription that was told to end rather than merge.
var ErrSlow = errors.New("watch: the subscriber is too slow")

// SubscribeOption says what becomes of a subscriber that does not come.
type SubscribeOption interface {
	subscribe(subscribeOptions) subscribeOptions
}

type subscribeOptions struct {
	buffer int
	end    bool
}

type subscribeFunc func(subscribeOptions) subscribeOptions

func (f subscribeFunc) subscribe(o subscribeOptions) subscribeOptions { return f(o) }

// Buffer is how many changes wait for a subscriber one by one; 1,024 unless it
// says otherwise, and at least one. For a subscriber that is further behind,
// changes of one key are merged: it is told of a key that was created and
// updated that it was created, and of one that came and went nothing. What is
// there when the subscription begins does not count.
//
// The changes are kept once for all subscribers of a mirror, as many as the
// largest of their buffers, and some 1,000 or an eighth of the mirror's size
// besides. A subscriber that does not come costs its mirror the state that it
// knows, as far as that differs from the present one and no other subscriber
// keeps it too.
func Buffer(changes int) SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.buffer = max(changes, 1); return o })
}

// EndWhenSlow ends a subscription with ErrSlow when more changes wait than its
// buffer takes, instead of merging.
func EndWhenSlow() SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.end = true; return o })
}

// Subscription is one subscriber's stream of a mirror: Existing for what is
// there, Synced, and then the changes, with Prev for those that were and are.
// Events have no Token. Values were decoded once, by the mirror, and are shared
// by all subscribers: what they and Prev point to must not be changed. A
// subscriber that is slow or does not come holds up neither the mirror nor
// another subscriber. Next is for one goroutine at a time; Close may be called
// beside it.
//
// Those who wait are woken together, the first time at once, and then not more
// often than every 10 µs for each of them, 10 ms for 1,000, unless more than
// half a buffer waits: the more there are to wake, the more changes each of them
// finds.
type Subscription[T any] struct {
	m      *Mirror[T]
	o      subscribeOptions
	closed chan struct{}
	at     atomic.Pointer[place[T]] // nil after the end; what it points to is for Next alone

	mu  sync.Mutex
	err error // final; what waits comes before it
}

// Subscribe opens a stream of the mirror. It does no I/O, and takes the same
// time whatever the mirror's size. Close it when it is no longer read, after
// an error too.
func (m *Mirror[T]) Subscribe(opts ...SubscribeOption) *Subscription[T] {
	s := &Subscription[T]{m: m, o: subscribeOptions{buffer: 1024}, closed: make(chan struct{})}
	for _, opt := range opts {
		if opt != nil {
			s.o = opt.subscribe(s.o)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &place[T]{m: m, buffer: uint64(s.o.buffer), strict: s.o.end, walk: &walk[T]{to: m.snapshot()}}
	p.seg, p.i = m.feed.join(s.o.buffer)
	s.at.Store(p)
	return s
}

// Next waits for the next event. An error that matches that of ctx ends this
// call only. Others are final: ErrSlow, kv.ErrClosed after Close of the
// subscription, the mirror or the store, and else the mirror's.
func (s *Subscription[T]) Next(ctx context.Context) (ev kv.Event[T], err error) {
	contexts.Require(ctx)
	var changed <-chan struct{}
	for {
		if err := backend.ContextError(ctx); err != nil {
			return ev, err
		}
		p := s.at.Load()
		switch {
		case p == nil:
			return ev, s.final()
		case s.o.end && p.behind() > p.buffer && s.final() == nil:
			s.drop(ErrSlow)
			continue
		case p.next(&ev):
			return ev, nil
		}
		if err := s.final(); err != nil {
			return ev, err
		}
		if changed == nil {
			changed = s.m.rounds.next() // and look once more
			continue
		}
		select {
		case <-changed:
			changed = nil
		case <-ctx.Done():
		case <-s.closed:
		}
		select {
		case <-s.m.done:
			s.end()
		default:
		}
	}
}

// final is why there will be nothing beyond what waits, or nil.
func (s *Subscription[T]) final() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end takes over why the mirror stopped. Nothing is added after that.
func (s *Subscription[T]) end() {
	err := s.m.Err()
	if err == nil {
		err = kv.ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// drop forgets what waits.
func (s *Subscription[T]) drop(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	if s.at.Swap(nil) != nil {
		s.m.mu.Lock()
		s.m.feed.leave(s.o.buffer)
		s.m.mu.Unlock()
	}
}

// Close ends the subscription. It is idempotent.
func (s *Subscription[T]) Close() error {
	s.drop(kv.ErrClosed)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}
