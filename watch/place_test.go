package watch_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

// TestSubscriberMergesExactly: what a subscriber who is behind gets of a stretch
// of changes is what the changes themselves come to.
func TestSubscriberMergesExactly(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) {
			src := numbers(newStore(t))
			rng := rand.New(rand.NewPCG(seed, 0))
			churn(t, src, "d", 10, rng)
			m := newMirror(t, src)
			behind, prompt := m.Subscribe(watch.Buffer(1)), m.Subscribe()
			for _, sub := range []*watch.Subscription[int]{behind, prompt} {
				for range m.Len() + 1 {
					if _, err := sub.Next(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			churn(t, src, "d", 2+rng.IntN(200), rng) // less than a segment, so it is one stretch
			put(t, src, "x", 1)
			put(t, src, "y", 1)
			synctest.Wait()
			read := func(sub *watch.Subscription[int]) (all []kv.Event[int]) {
				for events, err := range watch.Batches(sub, time.Second) {
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, events...)
					break
				}
				return all
			}
			plain := func(all []kv.Event[int]) (out []string) {
				for _, ev := range all {
					out = append(out, fmt.Sprint(show(ev), ev.Revision, ev.Prev))
				}
				return out
			}
			var got []kv.Event[int]
			for ev := (kv.Event[int]{}); ev.Key != "y"; {
				var err error
				if ev, err = behind.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
				got = append(got, ev)
			}
			behind.Close()
			if want := read(prompt); !slices.EqualFunc(got, want, sameEvent) {
				t.Errorf("seed %d\ngot  %q\nwant %q", seed, plain(got), plain(want))
			}
		})
	}
}

func sameEvent(a, b kv.Event[int]) bool {
	same := (a.Prev == nil) == (b.Prev == nil) && (a.Prev == nil || *a.Prev == *b.Prev)
	return same && a.Kind == b.Kind && a.Entry == b.Entry
}

// TestNextAllocatesNothing: an event that waits costs its subscriber no memory,
// nor if it is behind its buffer.
func TestNextAllocatesNothing(t *testing.T) {
	for _, buffer := range []int{1, 1 << 20} {
		t.Run(fmt.Sprint("buffer ", buffer), func(t *testing.T) {
			src := numbers(newStore(t))
			m := newMirror(t, src)
			sub := m.Subscribe(watch.Buffer(buffer))
			defer sub.Close()
			next(t, sub, "synced")
			const events = 900 // less than a stage
			for i := range events {
				put(t, src, fmt.Sprint("k", i), i)
			}
			if err := m.Sync(limited(t)); err != nil {
				t.Fatal(err)
			}
			ctx := limited(t)
			// The first of the two runs gets what is kept from one segment to the next.
			n := testing.AllocsPerRun(1, func() {
				for range events / 2 {
					if _, err := sub.Next(ctx); err != nil {
						t.Fatal(err)
					}
				}
			})
			if n > 2 { // of the store's, perhaps
				t.Errorf("%v allocations for %d events", n, events/2)
			}
		})
	}
}

// TestCloseBesideNext: whatever a subscriber is about to be told, it is told
// nothing after Close, and keeps nothing.
func TestCloseBesideNext(t *testing.T) {
	src := numbers(newStore(t))
	m := newMirror(t, src)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				put(t, src, fmt.Sprint("k", i%500), i)
			}
		}
	})
	ctx := limited(t)
	for i := range 300 {
		sub := m.Subscribe(watch.Buffer([]int{1, 16, 1024}[i%3]))
		read, ended := make(chan struct{}), make(chan error)
		go func() {
			for n := 0; ; n++ {
				if n == i {
					close(read)
				}
				if _, err := sub.Next(ctx); err != nil {
					ended <- err
					return
				}
			}
		}()
		<-read
		sub.Close()
		if err := <-ended; !errors.Is(err, kv.ErrClosed) {
			t.Errorf("beside Close: %v", err)
		}
		if _, err := sub.Next(ctx); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if n := watch.Waiting(sub); n != 0 {
			t.Errorf("%d changes are held after Close", n)
		}
	}
	close(stop)
	writing.Wait()
}
