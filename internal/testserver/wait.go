package testserver

import (
	"testing"
	"time"
)

// Eventually waits until cond holds, which it asks a hundred times a second, and ends the test if that takes longer than
// d. what names the condition.
func Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}
