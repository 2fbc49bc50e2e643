package kv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// merging is a driver's store that is not Lossless: its watches look at what is
// there now and then, as those of Consul do, and tell what differs.
type merging struct {
	backend.Store
	places  bool            // Progress has a revision
	still   bool            // watches look only when they are asked
	listed  func(done bool) // called before and after a list
	gotMany func()          // called after GetMany

	mu   sync.Mutex
	read int // keys that GetMany was asked for
}

func (s *merging) Capabilities() backend.Capabilities {
	c := s.Store.Capabilities()
	c.Lossless, c.Resumable, c.SnapshotList = false, false, false
	return c
}

func (s *merging) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if s.listed != nil {
			s.listed(false)
			defer s.listed(true)
		}
		o.At = nil
		s.Store.List(ctx, prefix, o)(yield)
	}
}

func (s *merging) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	s.mu.Lock()
	s.read += len(keys)
	s.mu.Unlock()
	entries, err := s.Store.GetMany(ctx, keys, o)
	if s.gotMany != nil {
		s.gotMany()
	}
	return entries, err
}

func (s *merging) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	nudges, err := s.Store.Watch(ctx, prefix, o)
	if err != nil {
		return nil, err
	}
	w := &mergingWatch{Watch: nudges, s: s, ctx: ctx, prefix: prefix, state: map[string]backend.Entry{}, ready: make(chan struct{}, 1)}
	if err := w.look(); err != nil {
		nudges.Close()
		return nil, err
	}
	w.events = nil
	w.pump.Go(func() {
		for {
			if _, err := nudges.Next(context.WithoutCancel(ctx)); err != nil {
				return
			}
			if !s.still {
				w.signal()
			}
		}
	})
	return w, nil
}

type mergingWatch struct {
	backend.Watch // of the store below: something has changed
	s             *merging
	ctx           context.Context
	prefix        string
	pump          sync.WaitGroup
	ready         chan struct{}

	mu     sync.Mutex
	state  map[string]backend.Entry
	events []backend.Event
}

func (w *mergingWatch) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// look tells what differs from the last look. w.mu is held, or nobody has w yet.
func (w *mergingWatch) look() error {
	now := map[string]backend.Entry{}
	var changed []backend.Event
	for e, err := range w.s.Store.List(w.ctx, w.prefix, backend.ListOptions{}) {
		if err != nil {
			return err
		}
		now[e.Key] = e
		was, known := w.state[e.Key]
		switch {
		case !known:
			changed = append(changed, backend.Event{Kind: backend.Created, Entry: e})
		case was.Created != e.Created:
			w.events = append(w.events, backend.Event{Kind: backend.Deleted, Entry: backend.Entry{Key: e.Key}})
			changed = append(changed, backend.Event{Kind: backend.Created, Entry: e})
		case was.Revision != e.Revision:
			changed = append(changed, backend.Event{Kind: backend.Updated, Entry: e})
		}
	}
	for key := range w.state {
		if _, ok := now[key]; !ok {
			w.events = append(w.events, backend.Event{Kind: backend.Deleted, Entry: backend.Entry{Key: key}})
		}
	}
	slices.SortFunc(changed, func(a, b backend.Event) int { return int(a.Revision) - int(b.Revision) })
	w.events = append(w.events, changed...)
	w.state = now
	return nil
}

func (w *mergingWatch) Next(ctx context.Context) (backend.Event, error) {
	for {
		w.mu.Lock()
		if len(w.events) > 0 {
			ev := w.events[0]
			w.events = w.events[1:]
			w.mu.Unlock()
			return ev, nil
		}
		w.mu.Unlock()
		select {
		case <-w.ready:
			w.mu.Lock()
			if len(w.events) == 0 {
				if err := w.look(); err != nil {
					w.mu.Unlock()
					return backend.Event{}, err
				}
			}
			w.mu.Unlock()
		case <-ctx.Done():
			return backend.Event{}, backend.ContextError(ctx)
		case <-w.ctx.Done():
			return backend.Event{}, backend.ContextError(w.ctx)
		}
	}
}

func (w *mergingWatch) Sync(ctx context.Context) error {
	var at backend.Revision
	if w.s.places {
		e, err := w.s.Store.Put(ctx, "\x01mark", nil, backend.PutOptions{}) // what the store's clock says
		if err != nil {
			return err
		}
		at = e.Revision
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.look(); err != nil {
		return err
	}
	w.events = append(w.events, backend.Event{Kind: backend.Progress, Entry: backend.Entry{Revision: at}})
	w.signal()
	return nil
}

func (w *mergingWatch) Close() error {
	err := w.Watch.Close()
	w.pump.Wait()
	return err
}

// TestSnapshotShowsWhatComesAndGoes: a key that a snapshot shows and that is
// gone before the upstream looks has no event of its own. Its reader is told
// that it has gone, and right what comes then.
func TestSnapshotShowsWhatComesAndGoes(t *testing.T) {
	for _, tc := range []struct {
		name        string
		gone, again bool // after the list: the key is deleted, and made anew
		later       bool // made anew once it was found to be gone
		want, after []kv.Kind
	}{
		{name: "stays", after: []kv.Kind{kv.Updated}},
		{name: "goes", gone: true, want: []kv.Kind{kv.Deleted}, after: []kv.Kind{kv.Created}},
		{name: "comes back", gone: true, again: true, want: []kv.Kind{kv.Deleted, kv.Created}, after: []kv.Kind{kv.Updated}},
		{name: "comes back later", gone: true, later: true, want: []kv.Kind{kv.Deleted, kv.Created}, after: []kv.Kind{kv.Updated}},
	} {
		for _, places := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, revisions %v", tc.name, places), func(t *testing.T) {
				ctx := limited(t)
				below := memkv.New(memkv.Options{})
				b := &merging{Store: below, places: places, still: true}
				s := kv.New(b)
				defer s.Close()
				do := func(err error) {
					t.Helper()
					if err != nil {
						t.Error(err)
					}
				}
				put := func(key string) { _, err := below.Put(ctx, key, nil, backend.PutOptions{}); do(err) }
				for i := range 100 {
					put(fmt.Sprintf("d/old%02d", i))
				}
				b.listed = func(done bool) {
					switch {
					case !done:
						put("d/k")
					case tc.gone:
						do(below.Delete(ctx, "d/k", backend.DeleteOptions{}))
						if tc.again {
							put("d/k")
						}
					}
				}
				b.gotMany = func() {
					if b.gotMany = nil; tc.later {
						put("d/k")
					}
				}
				w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
				defer w.Close()
				v := &backendtest.Validator{Prefix: "d", Options: backend.WatchOptions{Snapshot: true}, Caps: s.Capabilities()}
				for {
					ev := must[kv.Event[[]byte]](t)(w.Next(ctx))
					do(v.Observe(raw(ev)))
					if ev.Kind == kv.Synced {
						break
					}
				}
				// told reads what there is until a Sync has come.
				told := func() (kinds []kv.Kind) {
					t.Helper()
					ctx, cancel := context.WithCancel(ctx)
					synced := make(chan error, 1)
					go func() {
						defer cancel()
						synced <- w.Sync(ctx)
					}()
					for {
						ev, err := w.Next(ctx)
						if ctx.Err() != nil {
							do(<-synced)
							return kinds
						}
						do(err)
						do(v.Observe(raw(ev)))
						kinds = append(kinds, ev.Kind)
					}
				}
				if kinds := told(); !slices.Equal(kinds, tc.want) {
					t.Errorf("told %v of the key, want %v", kinds, tc.want)
				}
				put("d/k")
				if kinds := told(); !slices.Equal(kinds, tc.after) {
					t.Errorf("then told %v of the key, want %v", kinds, tc.after)
				}
				if places && b.read > 1 {
					t.Errorf("%d keys were read again", b.read)
				}
			})
		}
	}
}

// TestMergingWatches opens watches of a store that merges beside writers whose
// keys come and go.
func TestMergingWatches(t *testing.T) {
	for _, places := range []bool{false, true} {
		t.Run(fmt.Sprintf("revisions %v", places), func(t *testing.T) {
			t.Parallel()
			b := &merging{Store: memkv.New(memkv.Options{WatchBuffer: 64 << 20}), places: places}
			s := kv.New(b, kv.WatchBuffer(64<<10))
			defer s.Close()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			var writing, following sync.WaitGroup
			stop, done := make(chan struct{}), make(chan struct{})
			for i := range 3 {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				writing.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Microsecond): // the readers want a turn, too
						}
						key := fmt.Sprintf("w/%d", rng.IntN(8))
						if rng.IntN(2) == 0 {
							if err := s.Delete(t.Context(), key); err != nil && !errors.Is(err, kv.ErrNotFound) {
								t.Errorf("delete: %v", err)
							}
						} else if _, err := s.Put(t.Context(), key, nil); err != nil {
							t.Errorf("put: %v", err)
						}
					}
				})
			}
			final := sync.OnceValue(func() map[string]kv.Revision { return revisions(t, s, "w") })
			for i := range 40 {
				w, err := s.Watch(t.Context(), "w", kv.FromSnapshot())
				if err != nil {
					t.Errorf("watch: %v", err)
					break
				}
				v := &backendtest.Validator{Prefix: "w", Options: backend.WatchOptions{Snapshot: true}, Caps: s.Capabilities(), Others: true}
				following.Go(func() {
					if err := follow(w, v, 0, true, done, final); err != nil {
						t.Errorf("watch %d: %v", i, err)
					}
				})
				<-time.After(time.Duration(rand.IntN(10)) * time.Millisecond)
			}
			close(stop)
			writing.Wait()
			close(done)
			following.Wait()
		})
	}
}
