package watch_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch"
)

// TestCloseWaitsForHandler: who else closes a mirror waits until no handler
// runs: another goroutine, one that the handler has started, a handler of
// another mirror.
func TestCloseWaitsForHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		src := numbers(s)
		open := func() *watch.Mirror[int] {
			m, err := watch.NewMirror(t.Context(), src)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m, other := open(), open()
		goOn := make(chan struct{})
		var running atomic.Bool
		closed := make(chan bool, 3) // whether a handler ran when Close had returned
		closes := func() { m.Close(); closed <- running.Load() }
		m.OnChange(func(watch.Change[int]) {
			running.Store(true)
			defer running.Store(false)
			go closes()
			<-goOn
		})
		other.OnChange(func(c watch.Change[int]) {
			if c.Key == "later" {
				closes()
			}
		})
		put(t, src, "k", 1)
		synctest.Wait()
		put(t, src, "later", 1)
		go closes()
		synctest.Wait()
		if n := len(closed); n > 0 {
			t.Errorf("Close has returned %d times while a handler runs", n)
		}
		close(goOn)
		for range cap(closed) {
			if <-closed {
				t.Error("a handler ran after Close")
			}
		}
		other.Close()
	})
}

// TestStoreClosedByHandler: the store's Close waits for no handler, and so may
// be called by one.
func TestStoreClosedByHandler(t *testing.T) {
	s := newStore(t)
	m, err := watch.NewMirror(limited(t), numbers(s))
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	m.OnChange(func(watch.Change[int]) { closed <- s.Close() })
	put(t, numbers(s), "k", 1)
	soon(t, "Close of the store in a handler returns", func() bool { return len(closed) == 1 })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
