package kv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// tapped is a driver's store whose watches can be counted and disturbed.
type tapped struct {
	backend.Store
	lossy bool // as a store that is not Lossless: no tokens, no revision of a delete
	opens atomic.Int64
	open  atomic.Int64

	mu      sync.Mutex
	watches map[*tap]struct{}
}

func (s *tapped) Capabilities() backend.Capabilities {
	c := s.Store.Capabilities()
	if s.lossy {
		c.Lossless, c.Resumable = false, false
	}
	return c
}

func (s *tapped) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	w, err := s.Store.Watch(ctx, prefix, o)
	if err != nil {
		return nil, err
	}
	s.opens.Add(1)
	s.open.Add(1)
	t := &tap{Watch: w, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches == nil {
		s.watches = map[*tap]struct{}{}
	}
	s.watches[t] = struct{}{}
	return t, nil
}

// loseHistory makes every open watch miss what it has not delivered.
func (s *tapped) loseHistory() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.watches {
		t.lost.Store(true)
	}
}

type tap struct {
	backend.Watch
	s      *tapped
	lost   atomic.Bool
	closed sync.Once
}

func (t *tap) Next(ctx context.Context) (backend.Event, error) {
	ev, err := t.Watch.Next(ctx)
	if err == nil && t.lost.Load() {
		return backend.Event{}, backend.ErrHistoryLost
	}
	if t.s.lossy {
		ev.Token = ""
		if ev.Kind == backend.Deleted || ev.Entry.Key == "" {
			ev.Revision = 0
		}
	}
	return ev, err
}

func (t *tap) Close() error {
	t.closed.Do(func() {
		t.s.open.Add(-1)
		t.s.mu.Lock()
		delete(t.s.watches, t)
		t.s.mu.Unlock()
	})
	return t.Watch.Close()
}

func raw(ev kv.Event[[]byte]) backend.Event {
	out := backend.Event{Kind: ev.Kind, Token: ev.Token, Entry: backend.Entry{
		Key: ev.Entry.Key, Value: ev.Value, Revision: ev.Revision, Created: ev.Entry.Created, Expires: ev.Expires,
	}}
	if ev.Prev != nil {
		out.Prev = &backend.Entry{Key: ev.Prev.Key, Value: ev.Prev.Value, Revision: ev.Prev.Revision, Created: ev.Prev.Created}
	}
	return out
}

// writes makes n random writes to keys of its own and returns them in order.
func writes(t *testing.T, s *kv.Store, dir string, n int, rng *rand.Rand) []backendtest.Change {
	ctx := t.Context()
	var made []backendtest.Change
	present := map[string]bool{}
	for i := range n {
		key := fmt.Sprintf("%s/%d", dir, rng.IntN(6))
		if present[key] && rng.IntN(4) == 0 {
			if err := s.Delete(ctx, key); err != nil {
				t.Errorf("delete: %v", err)
				return made
			}
			present[key] = false
			made = append(made, backendtest.Change{Key: key, Delete: true})
			continue
		}
		value := fmt.Appendf(nil, "%s %d %0*d", key, i, rng.IntN(64), 0)
		if rng.IntN(5) == 0 {
			// Two keys in one transaction share a revision.
			other := fmt.Sprintf("%s/t", dir)
			tx := s.Txn()
			tx.Put(key, value)
			tx.Put(other, value)
			r, err := tx.Commit(ctx)
			if err != nil {
				t.Errorf("commit: %v", err)
				return made
			}
			made = append(made, backendtest.Change{Key: key, Value: value, Revision: r.Revision},
				backendtest.Change{Key: other, Value: value, Revision: r.Revision})
			present[other] = true
		} else {
			e, err := s.Put(ctx, key, value)
			if err != nil {
				t.Errorf("put: %v", err)
				return made
			}
			made = append(made, backendtest.Change{Key: key, Value: value, Revision: e.Revision})
		}
		present[key] = true
	}
	return made
}

// follow reads w until it has told the state that final returns once done is
// closed, and judges all that it told.
func follow(w *kv.Watch[[]byte], v *backendtest.Validator, slow time.Duration, untoken bool, done <-chan struct{}, final func() map[string]kv.Revision) error {
	defer w.Close()
	var deadline time.Time // once all is written
	var events int
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		ev, err := w.Next(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			select {
			case <-done:
			default:
				continue
			}
			want, now, same := final(), v.Now(), true
			for key, rev := range want {
				same = same && now[key].Revision == rev
			}
			if same && len(now) == len(want) {
				return nil
			}
			if deadline.IsZero() {
				deadline = time.Now().Add(time.Minute)
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("after %d events the stream has %d keys, the store %d", events, len(now), len(want))
			}
			continue
		case err != nil:
			return err
		}
		events++
		if untoken {
			ev.Token = ""
		}
		if err := v.Observe(raw(ev)); err != nil {
			return fmt.Errorf("event %d: %w", events, err)
		}
		if slow > 0 && events%16 == 0 {
			time.Sleep(slow) // a reader that is slower than the writers
		}
	}
}

// revisions are those of the keys below prefix.
func revisions(t *testing.T, s *kv.Store, prefix string) map[string]kv.Revision {
	m := map[string]kv.Revision{}
	for e, err := range s.List(context.Background(), prefix, kv.KeysOnly()) { // readers outlive the test's function
		if err != nil {
			t.Error(err)
		}
		m[e.Key] = e.Revision
	}
	return m
}

func TestSharedWatches(t *testing.T) {
	for _, tc := range []struct {
		name   string
		lossy  bool
		buffer int
		lose   bool
	}{
		{name: "lossless"},
		{name: "lossless, overflowing", buffer: 2000},
		{name: "lossless, history lost", lose: true},
		{name: "lossy", lossy: true},
		{name: "lossy, overflowing", lossy: true, buffer: 2000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := &tapped{Store: memkv.New(memkv.Options{WatchBuffer: 64 << 20}), lossy: tc.lossy}
			s := kv.New(b, kv.Prefix("p"), kv.WatchBuffer(tc.buffer))
			defer s.Close()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)

			const writers, each = 4, 400
			var changes []backendtest.Change
			var mu sync.Mutex
			var writing, following sync.WaitGroup
			done := make(chan struct{})
			final := sync.OnceValue(func() map[string]kv.Revision { return revisions(t, s, "") })
			var judged []func() error
			start := func(name string, slow time.Duration, o backend.WatchOptions, opts ...kv.WatchOption) {
				w, err := s.Watch(t.Context(), "", opts...)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				o.Prev = len(opts) > 1
				v := &backendtest.Validator{Options: o, Caps: s.Capabilities()}
				if tc.lossy || tc.lose {
					// Differences after a loss of history are merged, and
					// have no tokens.
					v.Caps.Lossless, v.Caps.Resumable = false, false
				}
				following.Go(func() {
					if err := follow(w, v, slow, tc.lose, done, final); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
				mu.Lock()
				defer mu.Unlock()
				judged = append(judged, func() error {
					if err := v.Complete(changes); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					return nil
				})
			}
			for i := range writers {
				writing.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					made := writes(t, s, fmt.Sprintf("w%d", i), each, rng)
					mu.Lock()
					defer mu.Unlock()
					changes = append(changes, made...)
				})
			}
			snapshot := backend.WatchOptions{Snapshot: true}
			for i := range 6 {
				start(fmt.Sprintf("snapshot %d", i), 0, snapshot, kv.FromSnapshot())
				start(fmt.Sprintf("slow snapshot %d", i), 2*time.Millisecond, snapshot, kv.FromSnapshot(), kv.WithPrev())
				if tc.lose && i == 3 {
					b.loseHistory()
				}
			}
			writing.Wait()
			close(done)
			following.Wait()
			for _, judge := range judged {
				if err := judge(); err != nil {
					t.Error(err)
				}
			}
			if n := b.open.Load(); n != 0 {
				t.Errorf("%d upstreams are open after every watch was closed", n)
			}
		})
	}
}

// TestOneUpstream is R25: a thousand watches of one prefix cost one.
func TestOneUpstream(t *testing.T) {
	b := &tapped{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	ctx := t.Context()
	var ws []*kv.Watch[[]byte]
	for i := range 1000 {
		opts := []kv.WatchOption{}
		if i%2 == 0 {
			opts = append(opts, kv.FromSnapshot())
		}
		w, err := s.Watch(ctx, "a", opts...)
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, w)
	}
	if n := b.opens.Load(); n != 1 {
		t.Fatalf("%d upstreams were opened for 1,000 watches", n)
	}
	if _, err := s.Put(ctx, "a/k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		for ev, err := range w.Events() { // closes w
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind == kv.Synced {
				continue
			}
			if ev.Kind != kv.Created || ev.Entry.Key != "a/k" {
				t.Fatalf("watch %d: %v %q", i, ev.Kind, ev.Entry.Key)
			}
			break
		}
	}
	if n := b.open.Load(); n != 0 {
		t.Fatalf("%d upstreams are open after every watch was closed", n)
	}
}

// Sync returns when the reader was told, also of what a watch FromSnapshot holds back until it is compared with the list.
func TestSyncBesideSnapshot(t *testing.T) {
	for _, lossy := range []bool{false, true} {
		t.Run(fmt.Sprintf("lossy %v", lossy), func(t *testing.T) {
			ctx := t.Context()
			s := kv.New(&tapped{Store: memkv.New(memkv.Options{}), lossy: lossy})
			defer s.Close()
			for i := range 3 {
				if _, err := s.Put(ctx, fmt.Sprintf("a%d", i), nil); err != nil {
					t.Fatal(err)
				}
			}
			w, err := s.Watch(ctx, "", kv.FromSnapshot())
			if err != nil {
				t.Fatal(err)
			}
			next := func() kv.Event[[]byte] {
				ev, err := w.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return ev
			}
			next() // the list is under way
			if _, err := s.Put(ctx, "b", nil); err != nil {
				t.Fatal(err)
			}
			synced := make(chan error, 1)
			go func() { synced <- w.Sync(ctx) }()
			// Another watch's Sync, which is later, tells that the mark has come.
			other, err := s.Watch(ctx, "", kv.FromSnapshot())
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()

			var told atomic.Bool
			var reading sync.WaitGroup
			reading.Go(func() {
				for ev, err := range w.Events() {
					if err != nil {
						return // closed below
					}
					if ev.Key == "b" {
						told.Store(true)
					}
				}
			})
			if err := <-synced; err != nil || !told.Load() {
				t.Errorf("Sync returned %v; the reader was told of what was written before: %v", err, told.Load())
			}
			w.Close()
			reading.Wait()
		})
	}
}
