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
type Subscription[T any] struct {
	m      *Mirror[T]
	o      subscribeOptions
	closed chan struct{}

	mu    sync.Mutex
	ready []kv.Event[T] // worked out already
	pages []kv.Event[T] // where the walk puts them, page after page
	walk  *walk[T]      // comes before what is at the place
	begun bool          // Synced was told
	seg   *segment[T]   // the place
	i     int
	err   error // final; what waits comes before it
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
	s.walk = &walk[T]{to: m.snapshot()}
	s.seg, s.i = m.feed.join(s.o.buffer)
	return s
}

// Next waits for the next event. An error that matches that of ctx ends this
// call only. Others are final: ErrSlow, kv.ErrClosed after Close of the
// subscription, the mirror or the store, and else the mirror's.
func (s *Subscription[T]) Next(ctx context.Context) (kv.Event[T], error) {
	var changed <-chan struct{}
	for {
		if err := backend.ContextError(ctx); err != nil {
			return kv.Event[T]{}, err
		}
		ev, ok, err := s.take()
		switch {
		case ok || err != nil:
			return ev, err
		case changed == nil:
			changed = s.m.feed.changed() // and look once more
			continue
		}
		select {
		case <-changed:
			changed = nil
		case <-ctx.Done():
		case <-s.closed:
		case <-s.m.done:
			s.end()
		}
	}
}

// take returns the next event, if there is one, or the final error.
func (s *Subscription[T]) take() (kv.Event[T], bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.end && s.err == nil && s.behind() > uint64(s.o.buffer) {
		s.drop(ErrSlow)
	}
	for {
		switch {
		case len(s.ready) > 0:
			ev := s.ready[0]
			s.ready = s.ready[1:]
			return ev, true, nil
		case s.walk != nil:
			s.step()
		case s.seg == nil:
			return kv.Event[T]{}, false, s.err
		case s.i < int(s.seg.n.Load()):
			if s.behind() <= uint64(s.o.buffer) {
				s.i++
				return s.seg.changes[s.i-1].event(), true, nil
			}
			s.merge()
		case s.i < segmentLen:
			return kv.Event[T]{}, false, s.err
		default:
			s.advance()
		}
	}
}

// behind is how many changes there are beyond the place.
func (s *Subscription[T]) behind() uint64 {
	if s.seg == nil {
		return 0
	}
	return s.m.feed.total.Load() - (s.seg.first + uint64(s.i))
}

// step takes a page of the differences.
func (s *Subscription[T]) step() {
	var more bool
	s.ready, more = s.walk.page(s.pages[:0])
	s.pages = s.ready[:0]
	if more {
		return
	}
	s.walk, s.pages = nil, nil
	if !s.begun {
		s.begun = true
		s.ready = append(s.ready, kv.Event[T]{Kind: kv.Synced})
	}
}

// merge takes the rest of the segment.
func (s *Subscription[T]) merge() {
	n := int(s.seg.n.Load())
	var b batch[T]
	for ; s.i < n; s.i++ {
		b.add(s.seg.changes[s.i].event())
	}
	s.ready = b.events()
}

// advance goes to the next segment, or by differences to the newest stage.
func (s *Subscription[T]) advance() {
	next := s.seg.next.Load()
	if next != nil && (s.seg.state == nil || s.behind() <= uint64(s.o.buffer)) {
		s.seg, s.i = next, 0
		return
	}
	s.m.mu.Lock()
	newest := s.m.feed.beyond(s.seg)
	if newest != nil {
		next = newest.next.Load() // while the lock is held, nothing cuts it off
	}
	s.m.mu.Unlock()
	if newest != nil {
		s.walk = &walk[T]{from: s.seg.state, to: newest.state}
	}
	s.seg, s.i = next, 0
}

// event is what a subscriber gets of c.
func (c *Change[T]) event() kv.Event[T] {
	switch {
	case c.New.Revision == 0:
		return kv.Event[T]{Kind: kv.Deleted, Entry: kv.Entry[T]{Key: c.Key}, Prev: &c.Old}
	case c.Old.Revision == 0:
		return kv.Event[T]{Kind: kv.Created, Entry: c.New}
	}
	return kv.Event[T]{Kind: kv.Updated, Entry: c.New, Prev: &c.Old}
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

// drop forgets what waits. s.mu is held.
func (s *Subscription[T]) drop(err error) {
	if s.err == nil {
		s.err = err
	}
	if s.seg != nil {
		s.m.mu.Lock()
		s.m.feed.leave()
		s.m.mu.Unlock()
	}
	s.seg, s.walk, s.ready = nil, nil, nil
}

// Close ends the subscription. It is idempotent.
func (s *Subscription[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	s.drop(kv.ErrClosed)
	return nil
}
