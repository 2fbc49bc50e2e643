package watch

import (
	"context"
	"errors"
	"sync"

	"github.com/polykv/kv"
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
// says otherwise. Beyond, changes of one key are merged, so that what waits is
// bounded by the number of keys.
func Buffer(changes int) SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.buffer = changes; return o })
}

// EndWhenSlow ends a subscription with ErrSlow when its buffer is full, instead
// of merging.
func EndWhenSlow() SubscribeOption {
	return subscribeFunc(func(o subscribeOptions) subscribeOptions { o.end = true; return o })
}

// Subscription is one subscriber's stream of a mirror: Existing for what is
// there, Synced, and then the changes. Values were decoded once, by the
// mirror, and are shared by all subscribers: what they point to must not be
// changed. Next is for one goroutine at a time.
type Subscription[T any] struct {
	m    *Mirror[T]
	o    subscribeOptions
	stop func()
	wake chan struct{}

	mu    sync.Mutex
	queue []kv.Event[T]
	head  int
	index map[string]int // while merging: where each key's last event is
	err   error
	once  sync.Once
}

// Subscribe opens a stream of the mirror. It does no I/O.
func (m *Mirror[T]) Subscribe(opts ...SubscribeOption) *Subscription[T] {
	s := &Subscription[T]{m: m, o: subscribeOptions{buffer: 1024}, wake: make(chan struct{}, 1)}
	for _, opt := range opts {
		if opt != nil {
			s.o = opt.subscribe(s.o)
		}
	}
	live := false // of the mirror's goroutine
	stop := m.OnChange(func(c Change[T]) {
		kind := kv.Updated
		switch {
		case !live:
			kind = kv.Existing
		case c.New.Revision == 0:
			kind = kv.Deleted
		case c.Old.Revision == 0:
			kind = kv.Created
		}
		s.push(c, kind)
	})
	m.post(func() { // behind the replay that OnChange posted
		live = true
		s.append(kv.Event[T]{Kind: kv.Synced})
	})
	s.stop = stop
	return s
}

func (s *Subscription[T]) push(c Change[T], kind kv.Kind) {
	ev := kv.Event[T]{Kind: kind, Entry: c.New}
	ev.Key = c.Key
	if c.Old.Revision != 0 {
		old := c.Old
		ev.Prev = &old
	}
	s.append(ev)
}

// append adds ev to what waits, or merges it.
func (s *Subscription[T]) append(ev kv.Event[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if s.index == nil && len(s.queue)-s.head >= s.o.buffer && ev.Kind != kv.Existing {
		if s.o.end {
			s.queue, s.head, s.err = nil, 0, ErrSlow
			s.signal()
			return
		}
		s.index = map[string]int{}
		old := s.queue[s.head:]
		s.queue, s.head = nil, 0
		for _, ev := range old {
			s.merge(ev)
		}
	}
	s.merge(ev)
	s.signal()
}

// merge appends ev or, while merging, folds it into the event of the same key
// that waits. A recreation stays two events. mu is held.
func (s *Subscription[T]) merge(ev kv.Event[T]) {
	if s.index != nil && ev.Key != "" {
		if i, ok := s.index[ev.Key]; ok && i >= s.head && s.queue[i].Kind != kv.Deleted {
			was := s.queue[i]
			switch {
			case was.Kind == kv.Created && ev.Kind == kv.Deleted:
				s.queue[i] = kv.Event[T]{}
				delete(s.index, ev.Key)
				return
			case was.Kind != kv.Updated && ev.Kind == kv.Updated:
				ev.Kind = was.Kind
			}
			ev.Prev = was.Prev
			s.queue[i] = ev
			return
		}
		s.index[ev.Key] = len(s.queue)
	}
	s.queue = append(s.queue, ev)
}

func (s *Subscription[T]) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next event. ctx bounds this call. Other errors are final:
// ErrSlow, kv.ErrClosed after Close, and the mirror's.
func (s *Subscription[T]) Next(ctx context.Context) (kv.Event[T], error) {
	for {
		s.mu.Lock()
		for s.head < len(s.queue) {
			ev := s.queue[s.head]
			s.queue[s.head] = kv.Event[T]{}
			if s.head++; s.head == len(s.queue) {
				s.queue, s.head, s.index = nil, 0, nil
			}
			if ev.Kind != 0 {
				s.mu.Unlock()
				return ev, nil
			}
		}
		err := s.err
		s.mu.Unlock()
		if err != nil {
			return kv.Event[T]{}, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return kv.Event[T]{}, context.Cause(ctx)
		case <-s.m.done:
			return kv.Event[T]{}, s.m.Err()
		}
	}
}

// Close ends the subscription. It is idempotent.
func (s *Subscription[T]) Close() error {
	s.once.Do(s.stop)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.queue, s.head, s.index, s.err = nil, 0, nil, kv.ErrClosed
	}
	s.signal()
	return nil
}
