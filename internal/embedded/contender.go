package embedded

import (
	"context"
	"time"

	"github.com/polykv/kv/backend"
)

// contender implements backend.Contender. Its variable fields are guarded by
// locks.mu.
type contender struct {
	locks   *Locks
	queue   *queue
	session <-chan struct{}
	id      string
	place   backend.Place
	lease   time.Duration

	ready chan struct{} // closed on admission
	gone  chan struct{} // closed when the place is free
	lost  chan struct{} // closed when the place is lost

	value    []byte
	token    uint64 // 0 until admitted
	renewed  time.Time
	deadline time.Time
	timer    *time.Timer
	pins     int  // transactions that are being committed under the place
	leaving  bool // released or lost
}

// expire is called by the timer at the deadline as it was when that was set.
func (c *contender) expire() {
	l := c.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.leaving {
		if left := time.Until(c.deadline); left > 0 {
			c.timer.Reset(left)
			return
		}
		l.leave(c, true)
	}
	l.timers.Done()
}

// left is why c has no place any more.
func (c *contender) left() error {
	if isClosed(c.session) {
		return backend.ErrClosed
	}
	return backend.ErrLockLost
}

// Wait implements backend.Contender.
func (c *contender) Wait(ctx context.Context) error {
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	select {
	case <-c.ready:
	case <-c.lost:
	case <-c.gone:
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	if c.leaving || c.overdue(time.Now()) {
		return c.left()
	}
	return nil
}

// overdue gives the place up if its lease ended unnoticed, in a process that
// was paused say.
func (c *contender) overdue(now time.Time) bool {
	if now.Before(c.deadline) {
		return false
	}
	c.locks.leave(c, true)
	return true
}

// Token implements backend.Contender.
func (c *contender) Token() uint64 {
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	return c.token
}

// Check implements backend.Contender.
func (c *contender) Check() backend.Check {
	return backend.Check{If: backend.LockHeld, Key: c.queue.name, Holder: c.id}
}

// Lease implements backend.Contender.
func (c *contender) Lease() time.Duration { return c.lease }

// Renewed implements backend.Contender.
func (c *contender) Renewed() time.Time {
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	return c.renewed
}

// change calls f while the place is held.
func (c *contender) change(ctx context.Context, f func(now time.Time)) error {
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	now := time.Now()
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	if c.leaving || c.overdue(now) {
		return c.left()
	}
	f(now)
	return nil
}

// Renew implements backend.Contender. The timer is left alone: when it fires
// it finds the new deadline.
func (c *contender) Renew(ctx context.Context) error {
	return c.change(ctx, func(now time.Time) {
		c.renewed, c.deadline = now, now.Add(c.lease)
	})
}

// Set implements backend.Contender.
func (c *contender) Set(ctx context.Context, value []byte) error {
	return c.change(ctx, func(time.Time) {
		c.value = clone(value)
		c.queue.notify()
	})
}

// Lost implements backend.Contender.
func (c *contender) Lost() <-chan struct{} { return c.lost }

// Release implements backend.Contender. It does its work with an ended ctx
// too; what it may wait for is a commit under way that relies on the place.
func (c *contender) Release(ctx context.Context) error {
	c.locks.mu.Lock()
	c.locks.leave(c, false)
	c.locks.mu.Unlock()
	select {
	case <-c.gone:
		return nil
	default:
	}
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}
