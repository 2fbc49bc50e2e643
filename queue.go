package kv

import (
	"slices"

	"github.com/polykv/kv/backend"
)

// queue holds the events that wait for one reader. Their values are shared
// with the other readers' queues.
type queue struct {
	events []queued
	head   int // of events: what is before it was popped
	away   int // how many of the others were merged away
	bytes  int
	index  map[string]int // where the event of each name is in events, while merging
	// keepVoid keeps what came and went: see queued.void.
	keepVoid  bool
	voidBytes int
}

// queued is an event, perhaps one that answers a Sync.
type queued struct {
	backend.Event
	// recreated says that the key went and came again: a Deleted stands
	// before this Created. Only merging makes it.
	recreated bool
	// void says that the key came and went in between. A reader who follows
	// the stream needs nothing of it, one who listed the key meanwhile needs
	// the delete. Only merging makes it, with keepVoid; without, nothing is
	// kept of the key.
	void bool
	// away says that there is nothing here any more.
	away bool
	// relist has the reader list again and work out what changed.
	relist bool
	mark   uint64 // of a Progress event: which Sync it answers; 0: none of this subscription's
}

// eventBytes is what an event costs in memory beside its key and values.
const eventBytes = 200

func (q queued) size() int {
	n := eventBytes + len(q.Entry.Key) + len(q.Value) + len(q.Token)
	if q.Prev != nil {
		n += len(q.Prev.Value)
	}
	return n
}

func (q *queue) len() int { return len(q.events) - q.head - q.away }

// all yields what waits, oldest first.
func (q *queue) all(yield func(queued) bool) {
	for _, e := range q.events[q.head:] {
		if !e.away && !yield(e) {
			return
		}
	}
}

// name is what events are merged by: the key, or what no key can be.
func (q queued) name() string {
	switch {
	case q.Entry.Key != "" || q.mark != 0:
		return q.Entry.Key
	case q.Kind == Synced:
		return "\x00synced"
	case q.Kind == Progress:
		return "\x00progress"
	}
	return ""
}

func (q *queue) push(e queued) {
	q.compact()
	if q.index != nil {
		if e.Kind == Resynced {
			// One that begins before the end of the last was read continues it.
			if i, ok := q.index["\x00synced"]; ok {
				q.drop(i)
				return
			}
		}
		name := e.name()
		if i, ok := q.index[name]; ok && e.Entry.Key != "" {
			q.merge(i, e)
			return
		} else if ok {
			q.drop(i)
		}
		if name != "" {
			q.index[name] = len(q.events)
		}
	}
	q.count(e, 1)
	q.events = append(q.events, e)
}

// count adds what e costs, or takes it off.
func (q *queue) count(e queued, sign int) {
	q.bytes += sign * e.size()
	if e.void {
		q.voidBytes += sign * e.size()
	}
}

// compact lets go of what was popped, for a reader who is never quite through,
// and of what was merged away.
func (q *queue) compact() {
	if gone := q.head + q.away; gone < 64 || gone <= len(q.events)/2 {
		return
	}
	kept := q.events[:0]
	for e := range q.all {
		if name := e.name(); q.index != nil && name != "" {
			q.index[name] = len(kept)
		}
		kept = append(kept, e)
	}
	clear(q.events[len(kept):])
	q.events, q.head, q.away = kept, 0, 0
}

// pop returns the oldest event.
func (q *queue) pop() (queued, bool) {
	for q.head < len(q.events) {
		e := q.events[q.head]
		if e.recreated {
			// Deliver the delete now, and leave the rest for the next pop.
			q.events[q.head].recreated = false
			return queued{Event: backend.Event{Kind: Deleted, Entry: backend.Entry{Key: e.Entry.Key}}}, true
		}
		q.events[q.head] = queued{}
		q.head++
		if e.away {
			q.away--
		} else {
			q.count(e, -1)
			delete(q.index, e.name())
		}
		if q.head == len(q.events) {
			*q = queue{events: q.events[:0], keepVoid: q.keepVoid}
			if cap(q.events) > 1024 {
				q.events = nil
			}
		}
		if !e.away {
			return e, true
		}
	}
	return queued{}, false
}

// startMerging folds the queue to one event for each key, and keeps it so
// until it has run empty once.
func (q *queue) startMerging() {
	if q.index != nil {
		return
	}
	old := q.events[q.head:]
	*q = queue{index: map[string]int{}, keepVoid: q.keepVoid}
	for _, e := range old {
		q.push(e)
	}
}

// merge folds e into the event at i, which is of the same key. The result
// takes a reader from the state before i to the state after e.
func (q *queue) merge(i int, e queued) {
	was := q.events[i]
	prev := was.Prev
	switch {
	case was.Kind == Created && e.Kind == Deleted && !was.recreated:
		if !q.keepVoid {
			q.drop(i)
			return
		}
		e.void = true
	case was.Kind == Created && e.Kind == Updated:
		e.Kind, e.recreated = Created, was.recreated
	case was.Kind == Deleted && e.Kind == Created:
		e.recreated = !was.void
	}
	if e.Kind == Created {
		prev = nil
	}
	e.Prev = prev
	q.count(was, -1)
	q.events[i] = e
	q.count(e, 1)
}

// drop takes the event at i away.
func (q *queue) drop(i int) {
	e := q.events[i]
	q.count(e, -1)
	delete(q.index, e.name())
	q.events[i] = queued{away: true}
	q.away++
}

// forget takes the answer to a Sync away that nobody waits for any more.
func (q *queue) forget(mark uint64) {
	for i := q.head; i < len(q.events); i++ {
		e := q.events[i]
		switch {
		case e.mark != mark:
			continue
		case q.index != nil:
			q.drop(i) // the index says where the others are
		default:
			q.count(e, -1)
			q.events = slices.Delete(q.events, i, i+1)
		}
		return
	}
}

// truncate drops the newer half of the queue and returns it, cut between two
// revisions if it can be: a transaction is resumed from its end. What is left
// is at least one event.
func (q *queue) truncate() []queued {
	keep := max(1, q.len()/2)
	for keep < q.len() && q.events[q.head+keep-1].Revision == q.events[q.head+keep].Revision {
		keep++
	}
	dropped := append([]queued(nil), q.events[q.head+keep:]...)
	clear(q.events[q.head+keep:])
	q.events = q.events[:q.head+keep]
	for _, e := range dropped {
		q.bytes -= e.size()
	}
	return dropped
}

// last is the newest event.
func (q *queue) last() queued { return q.events[len(q.events)-1] }
