package etcdkv

import (
	"context"
	"errors"
	"sync"

	"github.com/polykv/kv/backend"
)

// eventQueue stands between a stream and its reader. It is bounded in bytes,
// for goroutines that push and one that pops.
type eventQueue struct {
	limit int
	mu    sync.Mutex
	items []backend.Event
	head  int
	bytes int
	err   error         // comes after the items
	now   bool          // err comes before them
	more  chan struct{} // signalled when there is something to pop
	room  chan struct{} // signalled when there is less
}

// eventOverhead is what an event costs besides its key and values.
const eventOverhead = 256

func newEventQueue(limit int) *eventQueue {
	return &eventQueue{limit: limit, more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func eventSize(ev *backend.Event) int {
	n := eventOverhead + len(ev.Key) + len(ev.Value)
	if ev.Prev != nil {
		n += len(ev.Prev.Value)
	}
	return n
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push waits for room. One event always fits in an empty queue, however large.
func (q *eventQueue) push(ctx context.Context, ev backend.Event) error {
	size := eventSize(&ev)
	for {
		q.mu.Lock()
		if q.head == len(q.items) || q.bytes+size <= q.limit {
			q.append(ev, size)
			q.mu.Unlock()
			signal(q.more)
			return nil
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add is push without the bound.
func (q *eventQueue) add(ev backend.Event) {
	q.mu.Lock()
	q.append(ev, eventSize(&ev))
	q.mu.Unlock()
	signal(q.more)
}

func (q *eventQueue) append(ev backend.Event, size int) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, ev)
	q.bytes += size
}

// fail ends the queue: what is in it is still delivered, unless the watch was
// closed, or a context has ended.
func (q *eventQueue) fail(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err, q.now = err, !errors.Is(err, backend.ErrHistoryLost) && !errors.Is(err, backend.ErrPermission)
	}
	q.mu.Unlock()
	signal(q.more)
}

func (q *eventQueue) close() {
	q.mu.Lock()
	if q.err == nil {
		q.err = backend.ErrClosed
	}
	q.now = true
	q.mu.Unlock()
	signal(q.more)
}

// failed is the error that the watch has ended with.
func (q *eventQueue) failed() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

func (q *eventQueue) pop(ctx context.Context) (backend.Event, error) {
	for {
		if err := backend.ContextError(ctx); err != nil {
			return backend.Event{}, err
		}
		q.mu.Lock()
		switch {
		case q.err != nil && (q.now || q.head == len(q.items)):
			err := q.err
			q.mu.Unlock()
			signal(q.more) // for a later call
			return backend.Event{}, err
		case q.head < len(q.items):
			ev := q.items[q.head]
			q.items[q.head] = backend.Event{}
			q.head++
			q.bytes -= eventSize(&ev)
			if q.head == len(q.items) {
				q.items, q.head = q.items[:0], 0
			}
			q.mu.Unlock()
			signal(q.room)
			return ev, nil
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-ctx.Done():
		}
	}
}
