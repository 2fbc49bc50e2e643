package watch_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch"
)

func open(t testing.TB, src watch.Source[int], opts ...kv.WatchOption) *kv.Watch[int] {
	t.Helper()
	w, err := src.Watch(context.Background(), "", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// TestBatches runs in a bubble: what is written before the bubble sleeps falls
// into one interval.
func TestBatches(t *testing.T) {
	const interval = 100 * time.Millisecond
	type step func(t *testing.T, src *kv.Typed[int])
	puts := func(key string, v int) step {
		return func(t *testing.T, src *kv.Typed[int]) { put(t, src, key, v) }
	}
	dels := func(key string) step {
		return func(t *testing.T, src *kv.Typed[int]) { del(t, src, key) }
	}
	bad := func(key string) step {
		return func(t *testing.T, src *kv.Typed[int]) {
			if _, err := src.Store().Put(t.Context(), key, []byte("{")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"created and updated", []step{puts("a", 1), puts("a", 2), puts("b", 1)}, "created a 2, created b 1"},
		{"came and went", []step{puts("a", 1), puts("b", 2), dels("a")}, "created b 2"},
		{"came and went and came", []step{puts("a", 1), dels("a"), puts("a", 3)}, "created a 3"},
		{"updated twice", []step{puts("x", 1), puts("x", 2)}, "updated x 2 (0)"},
		{"updated and deleted", []step{puts("x", 1), dels("x")}, "deleted x 0 (0)"},
		{"went and came", []step{dels("x"), puts("x", 1), puts("x", 2)}, "deleted x 0 (0), created x 2"},
		{"went and came as what does not decode", []step{dels("x"), bad("x"), puts("x", 2)}, "deleted x 0 (0), created x 2"},
		{"went and came and went", []step{dels("x"), puts("x", 1), dels("x")}, "deleted x 0 (0)"},
		{"went and came twice", []step{dels("x"), puts("x", 1), dels("x"), puts("x", 2)}, "deleted x 0 (0), created x 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := kv.New(memkv.New(memkv.Options{}))
				defer s.Close()
				src := numbers(s)
				put(t, src, "x", 0)
				w := open(t, src, kv.WithPrev())
				for _, step := range tc.steps {
					step(t, src)
				}
				for b, err := range watch.Batches(w, interval) {
					if err != nil {
						t.Fatal(err)
					}
					var got []string
					for i, ev := range b {
						got = append(got, show(ev))
						if (ev.Token != "") != (i == len(b)-1) {
							t.Errorf("event %d of %d has the token %q", i, len(b), ev.Token)
						}
					}
					if g := strings.Join(got, ", "); g != tc.want {
						t.Errorf("got %q, want %q", g, tc.want)
					}
					// Resuming after the batch gives what follows, and no part
					// of it again.
					more := open(t, src, kv.Resume(b[len(b)-1].Token))
					put(t, src, "after", 1)
					next(t, more, "created after 1")
					more.Close()
					break
				}
				if _, err := w.Next(t.Context()); !errors.Is(err, kv.ErrClosed) {
					t.Errorf("leaving the loop left the watch open: %v", err)
				}
			})
		})
	}
}

func TestBatchesSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		src := numbers(s)
		put(t, src, "a", 1)
		put(t, src, "b", 2)
		w := open(t, src, kv.FromSnapshot())
		del(t, src, "a") // was there, and is gone before anybody heard of it
		put(t, src, "b", 3)
		n := 0
		for b, err := range watch.Batches(w, time.Second) {
			if n++; n == 3 {
				if b != nil || !undecodable(err) {
					t.Fatalf("want the error of a bad value, got %v %v", b, err)
				}
				s.Close()
				continue
			}
			if n == 4 {
				if b != nil || !errors.Is(err, kv.ErrClosed) {
					t.Fatalf("want the end, got %v %v", b, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, ev := range b {
				got = append(got, show(ev))
			}
			want := []string{"existing b 3", "synced"}
			if n == 2 {
				want = []string{"created c 1"}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			if n == 1 {
				put(t, src, "c", 1)
				if _, err := s.Put(t.Context(), "n/bad", []byte("{")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n != 4 {
			t.Errorf("the loop ran %d times", n)
		}
	})
}

// TestBatchesOfSubscription: a subscription is a stream like a watch.
func TestBatchesOfSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		src := numbers(s)
		put(t, src, "a", 1)
		m, err := watch.NewMirror(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		start := time.Now()
		for b, err := range watch.Batches(m.Subscribe(), time.Second) {
			if err != nil {
				t.Fatal(err)
			}
			if len(b) != 2 || b[0].Kind != kv.Existing || b[1].Kind != kv.Synced {
				t.Errorf("got %v", b)
			}
			break
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("the batch took %v", took)
		}
	})
}

func TestChan(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	w := open(t, src)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := watch.Chan[int](ctx, w)
	put(t, src, "a", 1)
	if _, err := s.Put(ctx, "n/bad", []byte("{")); err != nil {
		t.Fatal(err)
	}
	put(t, src, "b", 2)
	if r := <-ch; r.Err != nil || show(r.Event) != "created a 1" {
		t.Errorf("got %v", r)
	}
	if r := <-ch; !undecodable(r.Err) || r.Event.Key != "bad" || r.Event.Revision == 0 {
		t.Errorf("a bad value: %v", r)
	}
	if r := <-ch; r.Err != nil || show(r.Event) != "created b 2" {
		t.Errorf("after a bad value: %v", r)
	}
	cancel()
	for r := range ch { // at most the context's error
		if !errors.Is(r.Err, context.Canceled) {
			t.Errorf("at the end: %v", r)
		}
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("the watch is open after its channel closed: %v", err)
	}
}

// TestBatchIsBounded: by the keys that are there or were, and not by what comes
// and goes within an interval.
func TestBatchIsBounded(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	known := map[string]kv.Revision{"a": 1, "b": 1, "c": 1} // before the batch
	now := maps.Clone(known)
	got, room := watch.Gather(func(yield func(kv.Event[int]) bool) {
		for rev := kv.Revision(2); rev < 100_000; rev++ {
			ev := kv.Event[int]{Kind: kv.Deleted, Entry: kv.Entry[int]{Key: string(rune('a' + rng.IntN(20))), Revision: rev}}
			switch {
			case now[ev.Key] == 0:
				ev.Kind, now[ev.Key] = kv.Created, rev
			case rng.IntN(3) == 0:
				ev.Kind, now[ev.Key] = kv.Updated, rev
			default:
				delete(now, ev.Key)
			}
			if !yield(ev) {
				return
			}
		}
	})
	if room > 1000 {
		t.Errorf("there was room for %d events of 20 keys", room)
	}
	for _, ev := range got {
		if there := known[ev.Key] != 0; there != (ev.Kind != kv.Created) {
			t.Errorf("%v, where its presence before was %v", ev, there)
		}
		if known[ev.Key] = ev.Revision; ev.Kind == kv.Deleted {
			delete(known, ev.Key)
		}
	}
	if !maps.Equal(known, now) {
		t.Errorf("the batch leads to %v, the events to %v", known, now)
	}
}

// TestChanEnds: a final error comes, and then the channel closes.
func TestChanEnds(t *testing.T) {
	s := newStore(t)
	ch := watch.Chan[int](t.Context(), open(t, numbers(s)))
	s.Close()
	if r := <-ch; !errors.Is(r.Err, kv.ErrClosed) {
		t.Errorf("got %v", r)
	}
	if r, ok := <-ch; ok {
		t.Errorf("after a final error: %v", r)
	}
}

// TestBatchesEndWithDeadline: the end of a watch whose context had a deadline is
// not taken for that of an interval, however short.
func TestBatchesEndWithDeadline(t *testing.T) {
	for batch, err := range watch.Batches[int](&ended{t: t}, 0) {
		if len(batch) > 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v", batch, err)
		}
	}
}

// ended is a stream whose context's deadline has passed.
type ended struct {
	t     *testing.T
	calls int
}

func (s *ended) Next(context.Context) (kv.Event[int], error) {
	if s.calls++; s.calls > 10 {
		s.t.Fatal("asked again and again for an error that is final")
	}
	return kv.Event[int]{}, context.DeadlineExceeded
}

func (*ended) Close() error { return nil }
