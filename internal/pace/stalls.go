// Package pace is for tests that put bounds on time, on machines that do much else. A bound holds if it holds in one of several
// runs (Best), or once the time for which the machine stood still has been taken off (Stalls): what is wrong with the code is
// wrong in every run, and while nothing stands still.
package pace

import (
	"sync"
	"testing"
	"time"
)

const (
	// beat is how often Stalls looks at the clock.
	beat = 10 * time.Millisecond
	// still is how late that has to be to count: less is what any machine with work for all of its processors does.
	still = 50 * time.Millisecond
)

// Stalls notes for how long this process did not run though it had something to do. The servers of a test are on the same
// machine: when that stands still, they do.
type Stalls struct {
	mu    sync.Mutex
	began time.Time // the last look at the clock
	noted []stall
}

// stall is one time of standing still.
type stall struct{ from, to time.Time }

// Watch notes stalls until the test ends.
func Watch(t testing.TB) *Stalls {
	s, stop := start()
	t.Cleanup(stop)
	return s
}

// start begins to note stalls.
func start() (s *Stalls, stop func()) {
	s = &Stalls{began: time.Now()}
	stopped, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			timer := time.NewTimer(beat)
			select {
			case <-stopped:
				timer.Stop()
				return
			case <-timer.C:
				s.look(time.Now())
			}
		}
	}()
	return s, func() { close(stopped); <-over }
}

// look notes the time from when the clock should have been looked at to now, if it is long.
func (s *Stalls) look(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if due := s.began.Add(beat); now.Sub(due) > still {
		s.noted = append(s.noted, stall{due, now})
	}
	s.began = now
}

// Since returns how much of the time since then was spent standing still, up to now: one that is just over counts, whether or
// not it has been noted yet.
func (s *Stalls) Since(then time.Time) time.Duration {
	s.look(time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum time.Duration
	for _, one := range s.noted {
		if from := latest(one.from, then); one.to.After(from) {
			sum += one.to.Sub(from)
		}
	}
	return sum
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
