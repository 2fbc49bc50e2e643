package embedded

import (
	"context"
	"crypto/rand"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// Locks are the queues of contenders of one store: in memory and in order of
// arrival, so that they exclude contenders of this store only.
//
// Tokens are given out on admission and so grow in its order. A store that
// outlives its process reserves them durably, a block at a time.
type Locks struct {
	minLease time.Duration
	reserve  func(ctx context.Context, upTo uint64) error // nil: nothing to make durable
	epoch    string                                       // tells the contenders of one Locks from another's

	mu       sync.Mutex
	queues   map[string]*queue
	last     uint64 // token given
	reserved uint64 // tokens up to this one may be given
	ids      uint64
	entered  uint64 // contenders in all queues
	timers   sync.WaitGroup
}

// tokenBlock is how many tokens are reserved at once.
const tokenBlock = 1024

// NewLocks returns queues whose tokens are above last. reserve, if not nil,
// makes durable that tokens up to a number may have been given.
func NewLocks(minLease time.Duration, last uint64, reserve func(ctx context.Context, upTo uint64) error) *Locks {
	return &Locks{
		minLease: minLease, reserve: reserve, epoch: rand.Text(), last: last, reserved: last,
		queues: map[string]*queue{},
	}
}

// queue is the contenders of one lock.
type queue struct {
	name      string
	list      []*contender
	changed   chan struct{} // closed when the head or its value changes; nil while nobody observes
	observers int
}

// Contend implements backend.Store for the session whose Done is given.
func (l *Locks) Contend(
	ctx context.Context, session <-chan struct{}, name string, o backend.ContendOptions,
) (backend.Contender, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	now := time.Now()
	for {
		l.mu.Lock()
		if isClosed(session) {
			l.mu.Unlock()
			return nil, backend.ErrClosed
		}
		if l.reserve == nil || l.last+l.entered < l.reserved {
			break
		}
		upTo := l.last + l.entered + tokenBlock
		l.mu.Unlock()
		if err := l.reserve(ctx, upTo); err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.reserved = max(l.reserved, upTo)
		l.mu.Unlock()
	}
	defer l.mu.Unlock()
	l.expire(l.queue(name), now)
	q := l.queue(name) // again: a queue that expire has emptied is forgotten
	c := &contender{
		locks: l, queue: q, session: session, id: l.epoch + "." + strconv.FormatUint(l.ids, 36),
		place: backend.Place{Shared: o.Shared, Slots: o.Slots}, value: clone(o.Value),
		lease: max(o.Lease, l.minLease), renewed: now,
		ready: make(chan struct{}), gone: make(chan struct{}), lost: make(chan struct{}),
	}
	c.deadline = now.Add(c.lease)
	l.ids++
	q.list = append(q.list, c)
	if o.Try {
		if ok, _ := backend.Admitted(q.places(), len(q.list)-1); !ok {
			q.list[len(q.list)-1] = nil
			q.list = q.list[:len(q.list)-1]
			l.forget(q)
			return nil, backend.ErrLocked
		}
	}
	l.entered++
	l.admit(q)
	l.timers.Add(1)
	c.timer = time.AfterFunc(c.lease, c.expire)
	return c, nil
}

// queue returns the queue called name. The caller holds mu, here and below.
func (l *Locks) queue(name string) *queue {
	q := l.queues[name]
	if q == nil {
		q = &queue{name: name}
		l.queues[name] = q
	}
	return q
}

// forget drops a queue that nobody is in or looks at.
func (l *Locks) forget(q *queue) {
	if len(q.list) == 0 && q.observers == 0 {
		delete(l.queues, q.name)
	}
}

func (q *queue) places() []backend.Place {
	p := make([]backend.Place, len(q.list))
	for i, c := range q.list {
		p[i] = c.place
	}
	return p
}

// expire takes out whose lease has ended although its timer did not fire yet.
func (l *Locks) expire(q *queue, now time.Time) {
	for i := 0; i < len(q.list); {
		if c := q.list[i]; !now.Before(c.deadline) && !c.leaving {
			l.leave(c, true)
			if i < len(q.list) && q.list[i] == c {
				i++ // pinned: goes later
			}
			continue
		}
		i++
	}
}

// admit gives tokens to those who may hold now.
func (l *Locks) admit(q *queue) {
	places := q.places()
	for i, c := range q.list {
		if c.token != 0 {
			continue
		}
		if ok, _ := backend.Admitted(places, i); ok {
			l.last++
			c.token = l.last
			close(c.ready)
		}
	}
	q.notify()
}

func (q *queue) notify() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// leave takes c out of its queue, or, if a transaction that is being committed
// relies on its place, has unpin do it. lost tells that it was not released.
func (l *Locks) leave(c *contender, lost bool) {
	if c.leaving {
		return
	}
	c.leaving = true
	if c.timer != nil && c.timer.Stop() {
		l.timers.Done()
	}
	if lost {
		close(c.lost)
	}
	if c.pins == 0 {
		l.remove(c)
	}
}

func (l *Locks) remove(c *contender) {
	q := c.queue
	for i := range q.list {
		if q.list[i] == c {
			q.list = append(q.list[:i], q.list[i+1:]...)
			break
		}
	}
	l.entered--
	close(c.gone)
	l.admit(q)
	l.forget(q)
}

// pin returns the contender that check c names if it holds at now, and keeps
// its place until unpin: nobody else is admitted in between.
func (l *Locks) pin(check backend.Check, now time.Time) *contender {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[check.Key]
	if q == nil {
		return nil
	}
	for _, c := range q.list {
		if c.id == check.Holder {
			if c.leaving || c.token == 0 || !now.Before(c.deadline) {
				return nil
			}
			c.pins++
			return c
		}
	}
	return nil
}

func (l *Locks) unpin(c *contender) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.pins--; c.pins == 0 && c.leaving {
		l.remove(c)
	}
}

// Holders implements backend.Store for the session whose Done is given.
func (l *Locks) Holders(
	ctx context.Context, session <-chan struct{}, name string,
) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		l.mu.Lock()
		q := l.queue(name)
		q.observers++
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			q.observers--
			l.forget(q)
		}()
		var last backend.Holder
		for first := true; ctx.Err() == nil; {
			if isClosed(session) {
				yield(backend.Holder{}, backend.ErrClosed)
				return
			}
			l.mu.Lock()
			var h backend.Holder
			if len(q.list) > 0 {
				h = backend.Holder{Value: clone(q.list[0].value), Token: q.list[0].token}
			}
			if q.changed == nil {
				q.changed = make(chan struct{})
			}
			changed := q.changed
			l.mu.Unlock()
			if first || h.Token != last.Token || string(h.Value) != string(last.Value) {
				first, last = false, h
				h.Value = clone(h.Value) // last stays ours
				if !yield(h, nil) {
					return
				}
			}
			select {
			case <-changed:
			case <-session:
			case <-ctx.Done():
			}
		}
	}
}

// End ends the contenders of one session, or all with a nil session.
func (l *Locks) End(session <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		for _, c := range slices.Clone(q.list) {
			if session == nil || c.session == session {
				l.leave(c, true)
			}
		}
	}
}

// Wait waits for the timers of contenders that have left.
func (l *Locks) Wait() { l.timers.Wait() }

func isClosed(session <-chan struct{}) bool {
	select {
	case <-session:
		return true
	default:
		return false
	}
}
