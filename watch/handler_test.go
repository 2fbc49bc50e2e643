package watch_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

// TestOnChange: what is there and then the changes, without gap or repeat,
// whenever the handler comes and goes.
func TestOnChange(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(done)
		for i := range 3000 {
			put(t, src, "k", i)
		}
	})
	var stops []func()
	for running := true; running; {
		last := -1
		stops = append(stops, m.OnChange(func(c watch.Change[int]) {
			if c.Old.Revision == 0 && last != -1 || c.Old.Revision != 0 && c.Old.Value != last {
				t.Errorf("old %v after %d", c.Old, last)
			}
			if last != -1 && c.New.Value != last+1 {
				t.Errorf("%d after %d", c.New.Value, last)
			}
			last = c.New.Value
		}))
		if err := m.Sync(limited(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			running = false
		default:
		}
		if len(stops) > 20 {
			stops[0]()
			stops = stops[1:]
		}
	}
	writing.Wait()
	for _, stop := range stops {
		stop()
		stop() // idempotent
	}
	var calls atomic.Int64
	m.OnChange(func(watch.Change[int]) { calls.Add(1) })()
	put(t, src, "k", -1)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	if n := calls.Load(); n > 1 {
		t.Errorf("a handler that was stopped ran %d times", n)
	}
}

// TestHandlerStopsInReplay: a handler may take itself off, during the replay
// too, and may bring another.
func TestHandlerStopsInReplay(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i := range 10 {
		put(t, src, fmt.Sprint(i), i)
	}
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var stop func()
	ready := make(chan struct{})
	var calls, others atomic.Int64
	stop = m.OnChange(func(watch.Change[int]) {
		<-ready
		if calls.Add(1) == 3 {
			stop()
			m.OnChange(func(watch.Change[int]) { others.Add(1) })
		}
	})
	close(ready)
	put(t, src, "x", 1)
	soon(t, "the other handler has all", func() bool { return others.Load() == 11 })
	if n := calls.Load(); n != 3 {
		t.Errorf("the handler ran %d times after it was stopped in its third", n)
	}
}

func TestIndex(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	put(t, src, "a", 12)
	put(t, src, "b", 3)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// By each decimal digit.
	ix := watch.NewIndex(m, func(e kv.Entry[int]) (out []rune) {
		for _, d := range fmt.Sprint(e.Value) {
			out = append(out, d)
		}
		return out
	})
	check := func(digit rune, want ...string) {
		t.Helper()
		if err := m.Sync(limited(t)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range ix.Get(digit) {
			got = append(got, e.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("digit %c: %q, want %q", digit, got, want)
		}
	}
	check('1', "a")
	check('3', "b")
	put(t, src, "0", 31)
	check('1', "0", "a")
	check('3', "0", "b")
	put(t, src, "a", 45) // moves
	check('1', "0")
	check('2')
	check('5', "a")
	del(t, src, "0")
	check('1')
	check('3', "b")
	for range ix.Get('5') {
		break // leaves nothing behind
	}
	if err := errors.Join(ix.Close(), ix.Close()); err != nil {
		t.Error(err)
	}
	put(t, src, "c", 3)
	check('3', "b") // it follows no longer
}
