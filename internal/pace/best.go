package pace

import (
	"testing"
	"time"
)

// runs is how often Best lets the machine be busy.
const runs = 5

// Best fails the test unless f takes no longer than limit, by its own measure, in one of five runs. It stops at the first that
// does, so a bound that holds costs one run.
func Best(t testing.TB, limit time.Duration, what string, f func() (took time.Duration)) {
	t.Helper()
	var took []time.Duration
	for range runs {
		d := f()
		if d <= limit {
			return
		}
		took = append(took, d)
		if t.Failed() {
			break // for another reason
		}
	}
	t.Errorf("%s took %v, want %v at most", what, took, limit)
}

// Timed is how long f takes.
func Timed(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}
