package watch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/watch"
)

func newMirror(t testing.TB, src *kv.Typed[int]) *watch.Mirror[int] {
	t.Helper()
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// told is what a subscriber gets of all that was written before the new key end.
func told(t testing.TB, src *kv.Typed[int], m *watch.Mirror[int], s *watch.Subscription[int], end string) (out []string) {
	t.Helper()
	last := put(t, src, end, 0)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	for {
		ev, err := s.Next(limited(t))
		if err != nil {
			t.Fatal(err)
		}
		if ev.Revision == last.Revision {
			return out
		}
		out = append(out, show(ev))
	}
}

// until reads what there is before the first event of key, and counts it.
func until(t testing.TB, s *watch.Subscription[int], key string) (n int) {
	t.Helper()
	ctx := limited(t)
	for ; ; n++ {
		ev, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Key == key {
			return n
		}
	}
}

func TestSubscribe(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	put(t, src, "a", 1)
	put(t, src, "b", 2)
	m := newMirror(t, src)
	sub := m.Subscribe(nil)
	defer sub.Close()
	next(t, sub, "existing a 1")
	next(t, sub, "existing b 2")
	next(t, sub, "synced")
	put(t, src, "c", 3)
	put(t, src, "a", 4)
	del(t, src, "a")
	put(t, src, "a", 5)
	next(t, sub, "created c 3")
	next(t, sub, "updated a 4 (1)")
	next(t, sub, "deleted a 0 (4)")
	ev := next(t, sub, "created a 5")
	if e, err := src.Get(t.Context(), "a"); err != nil || e != ev.Entry {
		t.Errorf("the event has %v, the store %v %v", ev.Entry, e, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := sub.Next(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
	put(t, src, "d", 6) // an ended context has not ended the stream
	next(t, sub, "created d 6")
	if err := errors.Join(sub.Close(), sub.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(limited(t)); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSubscriberMerges(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i, key := range []string{"gone", "same", "there"} {
		put(t, src, key, i)
	}
	m := newMirror(t, src)
	sub := m.Subscribe(watch.Buffer(0)) // one
	defer sub.Close()
	for range 4 {
		if _, err := sub.Next(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, src, "new", 1)
	put(t, src, "new", 2)
	put(t, src, "there", 7)
	put(t, src, "there", 8)
	put(t, src, "fleeting", 1)
	del(t, src, "fleeting")
	del(t, src, "gone")
	del(t, src, "same")
	put(t, src, "same", 9)
	put(t, src, "same", 10)
	got := told(t, src, m, sub, "end")
	want := []string{"created new 2", "updated there 8 (2)", "deleted gone 0 (0)", "deleted same 0 (1)", "created same 10"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// Who has caught up gets one by one again.
	put(t, src, "new", 3)
	next(t, sub, "updated new 3 (2)")

	// Between the halves of a recreation another change may come.
	put(t, src, "x", 0)
	next(t, sub, "created x 0")
	put(t, src, "x", 1)
	del(t, src, "x")
	put(t, src, "x", 2)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	next(t, sub, "deleted x 0 (0)")
	del(t, src, "x")
	put(t, src, "y", 1)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	next(t, sub, "created x 2")
	next(t, sub, "deleted x 0 (2)")
	next(t, sub, "created y 1")
}

// TestSubscriberFarBehind: who comes to where the changes were cut off is told
// the differences, as exactly as if they were changes that were merged.
func TestSubscriberFarBehind(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i := range 300 { // more than a page
		put(t, src, fmt.Sprintf("k%03d", i), i)
	}
	m := newMirror(t, src)
	sub, ahead := m.Subscribe(), m.Subscribe(watch.Buffer(1<<20))
	defer sub.Close()
	defer ahead.Close()
	for range 301 {
		if _, err := sub.Next(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const rounds = 20_000
	for i := range rounds {
		key := fmt.Sprintf("k%03d", rng.IntN(600))
		if _, ok := m.Get(key); ok && rng.IntN(3) == 0 {
			if err := src.Delete(t.Context(), key); err != nil && !errors.Is(err, kv.ErrNotFound) {
				t.Fatal(err)
			}
			continue
		}
		put(t, src, key, i)
	}
	end := put(t, src, "end", 0)
	if err := m.Wait(limited(t), end.Revision); err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]*watch.Subscription[int]{"far behind": sub, "with a large buffer": ahead} {
		state := map[string]kv.Entry[int]{}
		if name == "far behind" {
			for i := range 300 {
				key := fmt.Sprintf("k%03d", i)
				state[key] = kv.Entry[int]{}
			}
		}
		n := 0
		ctx := limited(t)
		for {
			ev, err := sub.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n++
			_, known := state[ev.Key]
			switch ev.Kind {
			case kv.Existing, kv.Created:
				if known {
					t.Fatalf("%s: %s of a key that was there", name, show(ev))
				}
			case kv.Updated, kv.Deleted:
				if !known || ev.Prev == nil || state[ev.Key].Revision != 0 && *ev.Prev != state[ev.Key] {
					t.Fatalf("%s: %s of what was %v", name, show(ev), state[ev.Key])
				}
			}
			if ev.Kind == kv.Deleted {
				delete(state, ev.Key)
			} else if ev.Key != "" {
				state[ev.Key] = ev.Entry
			}
			if ev.Revision == end.Revision {
				break
			}
		}
		for e := range m.All() {
			if was := state[e.Key]; was != e && was.Revision != 0 {
				t.Errorf("%s: has %v for %v", name, was, e)
			}
			delete(state, e.Key)
		}
		if len(state) != 0 {
			t.Errorf("%s: has what is not there: %v", name, state)
		}
		t.Logf("%s: %d events", name, n)
		if merged := n < rounds/2; merged != (name == "far behind") {
			t.Errorf("%s: %d events of %d changes", name, n, rounds)
		}
	}
}

// TestDecodedOnce: a value is decoded once, however many read it.
func TestDecodedOnce(t *testing.T) {
	s := newStore(t)
	var decoded atomic.Int64
	src := kv.NewTyped(s, counting{&decoded}, "n")
	put(t, src, "there", 1)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ix := watch.NewIndex(m, func(e kv.Entry[int]) []int { return []int{e.Value} })
	defer ix.Close()
	const subscribers, changes = 100, 50
	var subs []*watch.Subscription[int]
	for i := range subscribers {
		subs = append(subs, m.Subscribe(watch.Buffer([]int{1, 1024}[i%2])))
	}
	for i := range changes {
		put(t, src, fmt.Sprint(i), i)
	}
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	for _, sub := range subs {
		for range changes + 2 {
			if _, err := sub.Next(limited(t)); err != nil {
				t.Fatal(err)
			}
		}
		sub.Close()
	}
	if n := decoded.Load(); n != changes+1 {
		t.Errorf("%d values were decoded %d times for %d subscribers", changes+1, n, subscribers)
	}
}

// counting is JSON that counts.
type counting struct{ decoded *atomic.Int64 }

func (counting) Append(dst []byte, v int) ([]byte, error) { return codec.JSON[int]().Append(dst, v) }
func (c counting) Decode(b []byte) (int, error) {
	c.decoded.Add(1)
	return codec.JSON[int]().Decode(b)
}

// TestThousandSubscribers: all of them arrive at the store's state, the slow
// and the merging ones too, and what each is told follows from what it knew.
func TestThousandSubscribers(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	m := newMirror(t, src)
	const subscribers, writers, each = 1000, 4, 100
	var reading, writing sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range writers {
		writing.Go(func() {
			churn(t, src, fmt.Sprintf("w%d", i), each, rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
	for i := range subscribers {
		sub := m.Subscribe(watch.Buffer([]int{1, 8, 1024}[i%3]))
		reading.Go(func() {
			defer sub.Close()
			state := map[string]kv.Entry[int]{}
			synced := false
			for n := 0; ; n++ {
				ev, err := sub.Next(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				was, known := state[ev.Key]
				ok := true
				switch ev.Kind {
				case kv.Synced:
					ok, synced = !synced, true
				case kv.Existing:
					ok = !known && !synced
				case kv.Created:
					ok = !known && synced
				case kv.Updated:
					ok = known && *ev.Prev == was && ev.Revision > was.Revision
				case kv.Deleted:
					ok = known && *ev.Prev == was
				}
				if !ok {
					t.Errorf("subscriber %d knew %v and was told %s", i, was, show(ev))
					return
				}
				switch {
				case ev.Kind == kv.Deleted:
					delete(state, ev.Key)
				case ev.Key != "":
					state[ev.Key] = ev.Entry
				}
				if ev.Key == "end" {
					break
				}
				if i%2 == 0 && n%4 == 0 {
					runtime.Gosched() // slower than the others
				}
			}
			if len(state) != m.Len() {
				t.Errorf("subscriber %d knows %d entries of %d", i, len(state), m.Len())
			}
			for key, e := range state {
				if there, _ := m.Get(key); there != e {
					t.Errorf("subscriber %d has %v for %v", i, e, there)
				}
			}
		})
	}
	writing.Wait()
	put(t, src, "end", 1)
	reading.Wait()
	same(t, m, src)
}
