package pace

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Timeout is context.WithTimeout with a time that does not go on while the machine stands still. It is for bounds below that of
// something else, such as a lease at whose end what is waited for would happen by itself: where there is none, let the time be long.
// The cancel function waits for what Timeout has started.
func (s *Stalls) Timeout(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	begin, over := time.Now(), make(chan struct{})
	go func() {
		defer close(over)
		for left := d; left > 0; left = d + s.Since(begin) - time.Since(begin) {
			timer := time.NewTimer(left)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
		cancel(fmt.Errorf("it took more than %v: %w", d, context.DeadlineExceeded))
	}()
	return ctx, func() { cancel(context.Canceled); <-over }
}

// Eventually waits until cond holds, and ends the test if that takes longer than d, without the time for which the machine stands
// still. It is for the bounds that Timeout is for.
func Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	s, stop := start()
	defer stop()
	s.Eventually(t, d, what, cond)
}

// Eventually is the function of that name, with stalls that are noted anyway.
func (s *Stalls) Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for begin := time.Now(); !cond(); <-tick.C {
		if time.Since(begin) > d+s.Since(begin) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}
