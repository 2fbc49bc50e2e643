package embedded

import (
	"sync"
	"time"
)

// Alarm calls Fire at the earliest of the times that it was set to, and then
// forgets them all. It is made of a timer and so works under testing/synctest.
// Fire must be set before the first use; it may set the alarm again.
type Alarm struct {
	Fire func()

	mu     sync.Mutex
	timer  *time.Timer
	at     time.Time // zero: not set
	closed bool
	firing sync.WaitGroup
}

// Set makes the alarm go off at the given time, unless it does so earlier.
func (a *Alarm) Set(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || !a.at.IsZero() && !at.Before(a.at) {
		return
	}
	a.at = at
	if a.timer == nil {
		a.timer = time.AfterFunc(time.Until(at), a.fire)
	} else {
		a.timer.Reset(time.Until(at))
	}
}

func (a *Alarm) fire() {
	a.mu.Lock()
	if a.closed || a.at.IsZero() {
		a.mu.Unlock()
		return
	}
	a.at = time.Time{}
	a.firing.Add(1)
	a.mu.Unlock()
	defer a.firing.Done()
	a.Fire()
}

// Close stops the alarm and waits for a Fire that is running. It must not be
// called by Fire, or with a lock held that Fire takes.
func (a *Alarm) Close() {
	a.mu.Lock()
	a.closed = true
	if a.timer != nil {
		a.timer.Stop()
	}
	a.mu.Unlock()
	a.firing.Wait()
}
