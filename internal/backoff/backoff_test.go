package backoff

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNext(t *testing.T) {
	for _, tc := range []struct {
		b        Backoff
		min, max time.Duration
	}{
		{Backoff{}, 25 * time.Millisecond, 2 * time.Second},
		{Backoff{Min: time.Second, Max: time.Minute}, time.Second, time.Minute},
		{Backoff{Min: time.Second, Max: time.Millisecond}, time.Millisecond, time.Millisecond},
		{Backoff{Min: 1, Max: 1}, 1, 1},
		{Backoff{Max: 1<<63 - 1}, 25 * time.Millisecond, 25 * time.Millisecond << 20},
	} {
		b := tc.b
		for i := range 100 { // far beyond where a shift would overflow
			step := min(tc.min<<min(i, 20), tc.max)
			if d := b.Next(); d < step/2 || d > step {
				t.Errorf("%+v: attempt %d waits %v, outside of [%v, %v]", tc.b, i, d, step/2, step)
			}
		}
		if n := b.Attempts(); n != 100 {
			t.Errorf("%d attempts", n)
		}
		b.Reset()
		if d := b.Next(); b.Attempts() != 1 || d > tc.min {
			t.Errorf("after Reset it waits %v", d)
		}
	}
}

// TestJitter: clients that fail together do not come back together.
func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		b := Backoff{Min: time.Second}
		seen[b.Next()] = true
	}
	if len(seen) < 90 {
		t.Errorf("100 first waits have only %d lengths", len(seen))
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{Min: time.Hour, Max: time.Hour}
		start := time.Now()
		if !b.Wait(t.Context()) {
			t.Error("did not wait")
		}
		if took := time.Since(start); took < time.Hour/2 || took > time.Hour {
			t.Errorf("waited %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start = time.Now()
		if b.Wait(ctx) {
			t.Error("waited beyond the end of the context")
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("returned after %v", took)
		}
	})
}
