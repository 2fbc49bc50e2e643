package kv

import "github.com/polykv/kv/backend"

// queue holds the events that wait for one reader. Their values are shared
// with the other readers' queues.
type queue struct {
	events []queued
	head   int // of events: what is before it was popped
	bytes  int
	index  map[string]int // the last event of each key in events, while merging
	holes  int            // events that merging has taken out
	// listing says that the reader may have listed a key in between, so that
	// one that came and went has to stay.
	listing bool
}

// queued is an event, perhaps one that answers a Sync.
type queued struct {
	backend.Event
	// recreated says that the key went and came again: a Deleted stands
	// before this Created. Only merging makes it.
	recreated bool
	// void says that the key came and went in between. A reader who follows
	// the stream needs nothing of it, one who listed the key meanwhile needs
	// the delete. Only merging makes it. Without a key it is a hole.
	void bool
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

func (q *queue) len() int { return len(q.events) - q.head }

func (q queued) hole() bool { return q.void && q.Entry.Key == "" }

func (q *queue) push(e queued) {
	q.compact()
	if q.index != nil && e.Entry.Key != "" {
		if i, ok := q.index[e.Entry.Key]; ok && i >= q.head {
			q.merge(i, e)
			return
		}
		q.index[e.Entry.Key] = len(q.events)
	}
	q.bytes += e.size()
	q.events = append(q.events, e)
}

// compact lets go of what was popped, for a reader who is never quite through.
func (q *queue) compact() {
	if q.head < 64 || q.head <= len(q.events)/2 {
		return
	}
	n := copy(q.events, q.events[q.head:])
	clear(q.events[n:])
	q.events = q.events[:n]
	for key, i := range q.index {
		if i < q.head {
			delete(q.index, key)
		} else {
			q.index[key] = i - q.head
		}
	}
	q.head = 0
}

// pop returns the oldest event.
func (q *queue) pop() (queued, bool) {
	for q.head < len(q.events) {
		e := q.events[q.head]
		q.events[q.head] = queued{}
		q.head++
		q.bytes -= e.size()
		if q.head == len(q.events) {
			*q = queue{events: q.events[:0], listing: q.listing}
			if cap(q.events) > 1024 {
				q.events = nil
			}
		}
		if e.hole() {
			q.holes = max(0, q.holes-1) // 0 if it was the last event of all
			continue
		}
		if e.recreated {
			// Deliver the delete now, and leave the rest for the next pop.
			gone := queued{Event: backend.Event{Kind: Deleted, Entry: backend.Entry{Key: e.Entry.Key}}}
			e.recreated = false
			q.unpop(e)
			return gone, true
		}
		return e, true
	}
	return queued{}, false
}

// unpop puts e back in front.
func (q *queue) unpop(e queued) {
	q.bytes += e.size()
	if q.head == 0 { // e was the last one
		q.events = append(q.events, e)
		return
	}
	q.head--
	q.events[q.head] = e
}

// startMerging folds the queue to one event for each key, and keeps it so
// until it has run empty once.
func (q *queue) startMerging() {
	if q.index != nil {
		return
	}
	q.rebuild()
}

// rebuild folds the queue anew, without what was popped and the holes.
func (q *queue) rebuild() {
	old := q.events[q.head:]
	*q = queue{index: map[string]int{}, listing: q.listing}
	for _, e := range old {
		if !e.hole() {
			q.push(e)
		}
	}
}

// merge folds e into the event at i, which is of the same key. The result
// takes a reader from the state before i to the state after e.
func (q *queue) merge(i int, e queued) {
	was := q.events[i]
	q.bytes -= was.size()
	prev := was.Prev
	switch {
	case was.Kind == Created && e.Kind == Deleted:
		e.void = !was.recreated
	case was.Kind == Created && e.Kind == Updated:
		e.Kind, e.recreated = Created, was.recreated
	case was.Kind == Deleted && e.Kind == Created:
		e.recreated = !was.void
	}
	if e.Kind == Created {
		prev = nil
	}
	e.Prev = prev
	if e.void && !q.listing {
		// Such keys can be without number: nothing of them is kept.
		delete(q.index, e.Entry.Key)
		e = queued{void: true}
		q.holes++
	}
	q.events[i] = e
	q.bytes += e.size()
	if q.holes > 64 && q.holes > q.len()/2 {
		q.rebuild()
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
