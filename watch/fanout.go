package watch

import (
	"context"
	"errors"
	"sync"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
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
// says otherwise, and at least one. Beyond, changes of one key are merged, so
// that what waits is bounded by the number of keys. What is there when the
// subscription begins does not count.
func Buffer(changes int) SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.buffer = max(changes, 1); return o })
}

// EndWhenSlow ends a subscription with ErrSlow when its buffer is full, instead
// of merging.
func EndWhenSlow() SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.end = true; return o })
}

// Subscription is one subscriber's stream of a mirror: Existing for what is
// there, Synced, and then the changes, with Prev for those that were and are.
// Events have no Token. Values were decoded once, by the mirror, and are shared
// by all subscribers: what they point to must not be changed. Next is for one
// goroutine at a time; Close may be called beside it.
type Subscription[T any] struct {
	m    *Mirror[T]
	o    subscribeOptions
	stop func()
	wake chan struct{} // holds one token when there may be something new

	mu    sync.Mutex
	queue pending[T]
	err   error // final; what waits comes before it
}

// Subscribe opens a stream of the mirror. It does no I/O. Close it when it is
// no longer read, after an error too.
func (m *Mirror[T]) Subscribe(opts ...SubscribeOption) *Subscription[T] {
	s := &Subscription[T]{m: m, o: subscribeOptions{buffer: 1024}, wake: make(chan struct{}, 1)}
	for _, opt := range opts {
		if opt != nil {
			s.o = opt.subscribe(s.o)
		}
	}
	live := false // of the mirror's goroutine
	s.stop = m.OnChange(func(c Change[T]) { s.add(item[T]{Change: c, existing: !live}) })
	m.post(func() { // behind the replay that OnChange posted
		live = true
		s.add(item[T]{synced: true})
	})
	return s
}

// add puts i behind what waits, or merges it.
func (s *Subscription[T]) add(i item[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return
	case s.o.end && i.isChange() && s.queue.changes >= s.o.buffer:
		s.queue, s.err = pending[T]{}, ErrSlow
	case i.isChange() && s.queue.changes >= s.o.buffer:
		s.queue.startMerging()
		fallthrough
	default:
		s.queue.push(i)
	}
	s.signal()
}

func (s *Subscription[T]) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next event. An error that matches that of ctx ends this
// call only. Others are final: ErrSlow, kv.ErrClosed after Close of the
// subscription, the mirror or the store, and else the mirror's.
func (s *Subscription[T]) Next(ctx context.Context) (kv.Event[T], error) {
	for {
		if err := backend.ContextError(ctx); err != nil {
			return kv.Event[T]{}, err
		}
		s.mu.Lock()
		ev, ok := s.queue.pop()
		err := s.err
		s.mu.Unlock()
		switch {
		case ok:
			return ev, nil
		case err != nil:
			return kv.Event[T]{}, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		case <-s.m.done:
			s.end()
		}
	}
}

// end takes over why the mirror stopped. Nothing comes after that.
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

// Close ends the subscription. It is idempotent.
func (s *Subscription[T]) Close() error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = pending[T]{}
	if s.err == nil {
		s.err = kv.ErrClosed
	}
	s.signal()
	return nil
}
