package consulkv

import (
	"context"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// queue carries the events of one watch to its reader, and holds no more than
// limit bytes of them, or one.
type queue struct {
	limit int

	mu     sync.Mutex
	events []backend.Event
	bytes  int
	err    error         // final, once the events are read
	ready  chan struct{} // one token when there is something to read
	room   chan struct{} // one token when there is less to read
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// eventBytes is about what an event costs in memory.
func eventBytes(ev backend.Event) int {
	n := 192 + len(ev.Key) + len(ev.Value)
	if ev.Prev != nil {
		n += 128 + len(ev.Prev.Value)
	}
	return n
}

// push adds ev. While the queue is full it waits for the reader, for patience
// at most if that is not 0, and reports false if ev was not added.
func (q *queue) push(ctx context.Context, ev backend.Event, patience time.Duration) bool {
	size := eventBytes(ev)
	if q.tryPush(ev, size) {
		return true
	}
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	for {
		select {
		case <-q.room:
			if q.tryPush(ev, size) {
				return true
			}
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (q *queue) tryPush(ev backend.Event, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes > 0 && q.bytes+size > q.limit {
		return false
	}
	q.events = append(q.events, ev)
	q.bytes += size
	signal(q.ready)
	return true
}

// fail ends the stream with err, after what is in the queue.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	signal(q.ready)
}

// drained waits until the reader has taken at least half of what fits.
func (q *queue) drained(ctx context.Context) bool {
	for {
		q.mu.Lock()
		enough := q.bytes <= q.limit/2
		q.mu.Unlock()
		if enough {
			return true
		}
		select {
		case <-q.room:
		case <-ctx.Done():
			return false
		}
	}
}

// pop takes the next event, if there is one.
func (q *queue) pop() (ev backend.Event, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		return ev, false, q.err
	}
	ev = q.events[0]
	q.events[0] = backend.Event{}
	q.events = q.events[1:]
	if len(q.events) == 0 {
		q.events = nil
	}
	q.bytes -= eventBytes(ev)
	signal(q.room)
	return ev, true, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
