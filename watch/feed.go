package watch

import (
	"math"
	"sync/atomic"
)

const (
	// segmentLen is how many changes a segment holds.
	segmentLen = 256
	// minStage is how many changes there are between two stages at least.
	minStage = 1024
)

// feed is the changes of a mirror, kept once for all its subscribers, who hold
// no more than their place in it. It is a chain of segments that are written
// once, by the mirror, and read without a lock; what lies behind every
// subscriber goes by itself.
//
// Some segments are stages: they keep the mirror's state after their last
// change, which costs no more than what differs from the state now. The chain
// is cut behind a stage that lies further back than any subscriber's buffer. Who
// comes to the cut goes on from the newest stage, and is told the differences
// between the two states: so a subscriber who does not come holds the changes
// up to the next stage, and one state, which others hold too.
//
// All is guarded by the mirror's lock; total is read without.
type feed[T any] struct {
	subs    int
	buffers map[int]int // how many subscribers have a buffer of each size
	keep    uint64      // the largest buffer of a subscriber
	least   int         // the smallest one
	last    *segment[T]
	stages  []*segment[T]    // those that are not cut off, oldest first
	since   int              // changes since the newest stage
	total   atomic.Uint64    // changes so far
	places  map[string]int16 // of the last segment, where the last change of each key is
}

// none is where nothing is.
const none = -1

type segment[T any] struct {
	first   uint64 // how many changes there were before
	changes [segmentLen]Change[T]
	before  [segmentLen]int16          // where the change of the same key before each is, or none
	n       atomic.Int32               // how many of changes are there
	next    atomic.Pointer[segment[T]] // set before n is full; nil again behind a stage that was cut off
	state   *tree[T]                   // of a stage; set before n is full
}

// join gives the place behind all changes so far. The mirror's lock is held.
func (f *feed[T]) join(buffer int) (*segment[T], int) {
	if f.last == nil {
		f.last = &segment[T]{first: f.total.Load()}
		f.places = map[string]int16{}
		f.buffers = map[int]int{}
	}
	f.subs++
	if f.buffers[buffer]++; f.buffers[buffer] == 1 {
		f.bound()
	}
	return f.last, int(f.last.n.Load())
}

// leave takes one subscriber off. The mirror's lock is held.
func (f *feed[T]) leave(buffer int) {
	if f.subs--; f.subs == 0 {
		f.last, f.stages, f.places, f.since = nil, nil, nil, 0
		return
	}
	if f.buffers[buffer]--; f.buffers[buffer] == 0 {
		delete(f.buffers, buffer)
		f.bound()
	}
}

// bound finds the largest and the smallest buffer of those who are there.
func (f *feed[T]) bound() {
	f.keep, f.least = 0, math.MaxInt
	for buffer := range f.buffers {
		f.keep, f.least = max(f.keep, uint64(buffer)), min(f.least, buffer)
	}
}

// add puts c behind the others. now is the state after it. The mirror's lock is
// held.
func (f *feed[T]) add(c Change[T], now *tree[T]) {
	s := f.last
	if s == nil {
		return
	}
	n := s.n.Load()
	s.changes[n], s.before[n] = c, none
	if before, ok := f.places[c.Key]; ok {
		s.before[n] = before
	}
	f.places[c.Key] = int16(n)
	f.since++
	if n+1 == segmentLen {
		f.extend(now)
	}
	f.total.Add(1)
	s.n.Store(n + 1)
}

// extend begins the next segment, and makes the last one a stage if the one
// before is far enough.
func (f *feed[T]) extend(now *tree[T]) {
	s := f.last
	end := s.first + segmentLen
	if f.since >= max(minStage, now.Len()/8) {
		s.state, f.since = now.Clone(), 0
		f.stages = append(f.stages, s)
		for len(f.stages) > 1 && end-(f.stages[0].first+segmentLen) > f.keep {
			f.stages[0].next.Store(nil)
			f.stages[0] = nil
			f.stages = f.stages[1:]
		}
	}
	f.last = &segment[T]{first: end}
	clear(f.places)
	s.next.Store(f.last)
}

// beyond returns the newest stage if it lies behind s, else nil. The mirror's
// lock is held.
func (f *feed[T]) beyond(s *segment[T]) *segment[T] {
	if len(f.stages) == 0 {
		return nil
	}
	if newest := f.stages[len(f.stages)-1]; newest.first > s.first {
		return newest
	}
	return nil
}
