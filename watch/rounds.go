package watch

import (
	"sync"
	"time"
)

// wakeEach is how long a round of wake-ups keeps the next one off, for each of
// those that it woke. To wake one costs a tenth of it or so.
const wakeEach = 10 * time.Microsecond

// rounds wakes those who wait for changes, all together. The first change that
// they wait for begins a round at once, and further ones do when the time of
// the last round is over, or when there are too many of them. So what waking
// costs is bounded: the more there are who wait, the more they find.
type rounds struct {
	mu      sync.Mutex
	wait    chan struct{} // closed in the next round; nil if nobody waits
	waiting int           // those who have given up included
	subs    int           // how many can wait
	changes int           // since somebody waits
	until   time.Time     // the time of the last round
	timer   *time.Timer
	over    bool
}

// next returns a channel that is closed in a round after the next change.
func (r *rounds) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wait == nil {
		r.wait = make(chan struct{})
		if r.over {
			close(r.wait)
		}
	}
	r.waiting++
	return r.wait
}

// changed tells of a change, and how many subscribers there are. No more than
// most changes wait for a round.
func (r *rounds) changed(subs, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wait == nil || r.over {
		return
	}
	r.subs = subs
	r.changes++
	early := time.Until(r.until)
	switch {
	case early <= 0 || r.changes > most:
		r.begin()
	case r.timer == nil:
		r.timer = time.AfterFunc(early, r.due)
	case r.changes == 1:
		r.timer.Reset(early)
	}
}

// due begins the round that the timer was set for.
func (r *rounds) due() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes > 0 && !r.over {
		r.begin()
	}
}

// begin wakes who waits. r.mu is held.
func (r *rounds) begin() {
	close(r.wait)
	r.until = time.Now().Add(time.Duration(min(r.waiting, r.subs)) * wakeEach)
	r.wait, r.waiting, r.changes = nil, 0, 0
}

// end wakes who waits, and has nobody wait again.
func (r *rounds) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.wait != nil {
		close(r.wait)
	}
}
