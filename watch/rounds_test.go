package watch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

// readAll counts what n new subscribers are told after Synced, all together.
func readAll(t *testing.T, m *watch.Mirror[int], n, buffer int) (told *atomic.Int64) {
	told = new(atomic.Int64)
	var reading sync.WaitGroup
	t.Cleanup(reading.Wait)
	for range n {
		sub := m.Subscribe(watch.Buffer(buffer))
		t.Cleanup(func() { sub.Close() })
		reading.Go(func() {
			for synced := false; ; {
				ev, err := sub.Next(t.Context())
				if err != nil {
					return
				}
				if synced {
					told.Add(1)
				}
				synced = synced || ev.Kind == kv.Synced
			}
		})
	}
	return told
}

// TestSubscribersWakeTogether: those who wait hear of a change at once, and of
// what comes in the time after that together, so that waking them cannot take
// all that the processor has.
func TestSubscribersWakeTogether(t *testing.T) {
	const subscribers, buffer = 100, 40
	const pause = subscribers * 10 * time.Microsecond
	synctest.Test(t, func(t *testing.T) {
		src := numbers(newStore(t))
		m := newMirror(t, src)
		told := readAll(t, m, subscribers, buffer)
		expect := func(what string, changes int) {
			t.Helper()
			synctest.Wait()
			if got := told.Swap(0); got != int64(changes*subscribers) {
				t.Errorf("%s: %d events for %d subscribers, want %d for each", what, got, subscribers, changes)
			}
		}
		write := func(n int) {
			for i := range n {
				put(t, src, fmt.Sprint("k", i), i)
				synctest.Wait() // who hears of it has had the time to read it
			}
		}
		synctest.Wait() // until all wait
		write(1)
		expect("the first change", 1)
		write(buffer / 2)
		expect("changes soon after it", 0)
		time.Sleep(pause) // virtual time
		expect("the end of the pause", buffer/2)
		time.Sleep(pause) // virtual time
		write(1)
		expect("a change after a pause without one", 1)
		write(buffer/2 + 1)
		expect("more changes than half a buffer", buffer/2+1)
		write(1)
		if err := m.Close(); err != nil { // what waits comes before the end
			t.Fatal(err)
		}
		expect("the end of the mirror", 1)
	})
}

// TestPauseIsForThoseWhoWait: who has given up waiting, however often, does not
// make the pause longer.
func TestPauseIsForThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := numbers(newStore(t))
		m := newMirror(t, src)
		sub := m.Subscribe()
		defer sub.Close()
		next(t, sub, "synced")
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if ev, err := sub.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(ev, err)
			}
			cancel()
		}
		for i := range 3 {
			begin := time.Now()
			go func() {
				synctest.Wait()
				put(t, src, "k", i)
			}()
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 10*time.Microsecond {
				t.Errorf("change %d is told after %v", i, took)
			}
		}
	})
}
