package pace

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is a test that notes whether it fails.
type told struct {
	testing.TB
	said []string
}

func (t *told) Helper()      {}
func (t *told) Failed() bool { return len(t.said) > 0 }
func (t *told) Errorf(format string, args ...any) {
	t.said = append(t.said, fmt.Sprintf(format, args...))
}

// A bound holds if one run keeps to it, and not if none does.
func TestBest(t *testing.T) {
	for _, c := range []struct {
		took  []time.Duration
		runs  int
		fails bool
	}{
		{[]time.Duration{time.Second}, 1, false},
		{[]time.Duration{2 * time.Second, 3 * time.Second, time.Second}, 3, false},
		{[]time.Duration{2, 2, 2, 2, 2, 1}, runs, true},
	} {
		limit, n, inner := time.Second, 0, &told{TB: t}
		if c.fails {
			limit = 1
		}
		Best(inner, limit, "it", func() time.Duration { n++; return c.took[n-1] })
		if n != c.runs || inner.Failed() != c.fails {
			t.Errorf("%v: %d runs, said %q", c.took, n, inner.said)
		}
	}
}

// What fails for another reason is not run again.
func TestBestOfWhatFails(t *testing.T) {
	inner, n := &told{TB: t}, 0
	Best(inner, time.Second, "it", func() time.Duration { n++; inner.Errorf("wrong"); return time.Minute })
	if n != 1 || len(inner.said) != 2 {
		t.Errorf("%d runs, said %q", n, inner.said)
	}
}

// Time in which the process runs is none in which it stands still.
func TestNoStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, s := time.Now(), Watch(t)
		time.Sleep(10*time.Second + beat/2) // virtual time
		if d := s.Since(begin); d != 0 {
			t.Errorf("stood still for %v", d)
		}
	})
}

// What was late is noted, and counts from when it is asked for.
func TestStalls(t *testing.T) {
	begin := time.Now().Add(-time.Minute) // nobody else looks
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	s := &Stalls{began: at(0)}
	for _, d := range []time.Duration{beat, 2 * beat, 2*beat + beat + still} { // as late as does not count
		s.look(at(d))
	}
	if len(s.noted) != 0 {
		t.Errorf("noted %v", s.noted)
	}
	last := 3*beat + still
	s.look(at(last + beat + 2*time.Second))
	now := last + beat + 2*time.Second
	for then, want := range map[time.Duration]time.Duration{
		0: 2 * time.Second, now - time.Second: time.Second, now: 0,
	} {
		s.began = time.Now() // and nothing since
		if got := s.Since(at(then)); got != want {
			t.Errorf("since %v: %v, want %v", then, got, want)
		}
	}
}

// A stall that nobody has noted yet counts.
func TestStallThatIsJustOver(t *testing.T) {
	begin := time.Now()
	s := &Stalls{began: begin.Add(-time.Second)}
	if d := s.Since(begin.Add(-time.Minute)); d < time.Second-beat {
		t.Errorf("stood still for %v", d)
	}
}

// A timeout comes after its time where nothing stands still, and later by a stall.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Watch(t)
		for _, still := range []time.Duration{0, 3 * time.Second} {
			begin := time.Now()
			if still > 0 {
				s.mu.Lock()
				s.noted = append(s.noted, stall{begin, begin.Add(still)})
				s.mu.Unlock()
			}
			ctx, cancel := s.Timeout(t.Context(), time.Second)
			<-ctx.Done()
			if took := time.Since(begin); took != time.Second+still {
				t.Errorf("after %v, having stood still for %v", took, still)
			}
			if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the cause is %v", err)
			}
			cancel()
		}
		ctx, cancel := s.Timeout(t.Context(), time.Hour)
		cancel() // and nothing is left
		if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the cause is %v", err)
		}
	})
}

func TestEventually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		Eventually(t, time.Second, "half a second", func() bool { return time.Since(begin) >= time.Second/2 })
		inner := &fatal{told: told{TB: t}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Eventually(inner, time.Second, "never", func() bool { return false })
		}()
		<-done
		if took := time.Since(begin); len(inner.said) != 1 || took > 2*time.Second {
			t.Errorf("after %v: %q", took, inner.said)
		}
	})
}

// fatal is a test that may end.
type fatal struct{ told }

func (f *fatal) Fatalf(format string, args ...any) { f.Errorf(format, args...); runtime.Goexit() }
