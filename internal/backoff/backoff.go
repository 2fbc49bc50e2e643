// Package backoff waits between attempts: exponentially longer, jittered, and
// bounded, so that a thousand clients of a restarted server neither spin nor
// come back together (R20, R36).
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff counts attempts. The zero value starts at 25 ms and ends at 2 s. It
// is not safe for concurrent use.
type Backoff struct {
	Min, Max time.Duration // 0: 25 ms and 2 s
	attempt  int
}

// Next returns how long to wait before the next attempt: a random time in the
// upper half of the doubled step.
func (b *Backoff) Next() time.Duration {
	lo, hi := b.Min, b.Max
	if lo <= 0 {
		lo = 25 * time.Millisecond
	}
	if hi <= 0 {
		hi = 2 * time.Second
	}
	d := min(lo<<min(b.attempt, 20), hi)
	b.attempt++
	return d/2 + rand.N(d/2+1)
}

// Attempts is how many times Next was called since the last Reset.
func (b *Backoff) Attempts() int { return b.attempt }

// Reset starts over, after a success.
func (b *Backoff) Reset() { b.attempt = 0 }

// Wait waits for Next, and reports false if ctx ended first.
func (b *Backoff) Wait(ctx context.Context) bool {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
