package watch

import (
	"sync"
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
// All but the wait is guarded by the mirror's lock; total is read without.
type feed[T any] struct {
	subs   int
	keep   uint64 // the largest buffer of a subscriber
	last   *segment[T]
	stages []*segment[T] // those that are not cut off, oldest first
	since  int           // changes since the newest stage
	total  atomic.Uint64 // changes so far

	mu   sync.Mutex
	wait chan struct{} // closed at the next change; nil if nobody waits
}

type segment[T any] struct {
	first   uint64 // how many changes there were before
	changes [segmentLen]Change[T]
	n       atomic.Int32               // how many of changes are there
	next    atomic.Pointer[segment[T]] // set before n is full; nil again behind a stage that was cut off
	state   *tree[T]                   // of a stage; set before n is full
}

// join gives the place behind all changes so far. The mirror's lock is held.
func (f *feed[T]) join(buffer int) (*segment[T], int) {
	if f.last == nil {
		f.last = &segment[T]{first: f.total.Load()}
	}
	f.subs++
	f.keep = max(f.keep, uint64(buffer))
	return f.last, int(f.last.n.Load())
}

// leave takes one subscriber off. The mirror's lock is held.
func (f *feed[T]) leave() {
	if f.subs--; f.subs == 0 {
		f.last, f.stages, f.since, f.keep = nil, nil, 0, 0
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
	s.changes[n] = c
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
		for len(f.stages) > 1 && end-(f.stages[0].first+segmentLen) >= f.keep {
			f.stages[0].next.Store(nil)
			f.stages[0] = nil
			f.stages = f.stages[1:]
		}
	}
	f.last = &segment[T]{first: end}
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

// changed returns a channel that is closed at the next change.
func (f *feed[T]) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wait == nil {
		f.wait = make(chan struct{})
	}
	return f.wait
}

// wake tells who waits.
func (f *feed[T]) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wait != nil {
		close(f.wait)
		f.wait = nil
	}
}
