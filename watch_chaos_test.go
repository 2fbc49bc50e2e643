package kv_test

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// failing is a driver's store that now and then has lost the history that a
// watch is to be resumed from, and fails at what else is asked of it.
type failing struct {
	tapped
	scattered bool // its lists are of no one moment
	steady    bool // it does not fail at the rest
}

// fails tells one call in n to fail.
func (s *failing) fails(n int) bool { return !s.steady && rand.IntN(n) == 0 }

func (s *failing) Capabilities() backend.Capabilities {
	c := s.tapped.Capabilities()
	c.SnapshotList = !s.scattered
	return c
}

func (s *failing) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	if s.fails(4) {
		return nil, backend.ErrUnavailable
	}
	return s.Store.GetMany(ctx, keys, o)
}

func (s *failing) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if s.scattered { // each entry is as it is when its turn comes
			o.At, o.Limit = nil, 1
		}
		for met := true; met; {
			met = false
			for e, err := range s.Store.List(ctx, prefix, o) {
				switch {
				case err != nil:
				case s.fails(400):
					err = backend.ErrUnavailable
				case s.fails(400):
					err = backend.ErrHistoryLost
				}
				if err != nil {
					yield(backend.Entry{}, err)
					return
				}
				if !yield(e, nil) {
					return
				}
				met, o.After = s.scattered, e.Key
			}
		}
	}
}

func (s *failing) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	switch {
	case o.Resume != "" && rand.IntN(3) == 0:
		return nil, backend.ErrHistoryLost
	case s.fails(6):
		return nil, backend.ErrUnavailable
	}
	w, err := s.tapped.Watch(ctx, prefix, o)
	if err != nil {
		return nil, err
	}
	return failingWatch{w, s}, nil
}

type failingWatch struct {
	backend.Watch
	s *failing
}

func (w failingWatch) Sync(ctx context.Context) error {
	if w.s.fails(4) {
		return backend.ErrUnavailable
	}
	return w.Watch.Sync(ctx)
}

// TestWatchesOfFailingStore is R20 with all that can go wrong at once: readers
// that are slower than the writers, history that is lost to their stream and to
// what they replay of it, and requests that fail in the midst of mending that.
// Whatever a reader is told follows from what it knew, and ends in the store's
// state.
func TestWatchesOfFailingStore(t *testing.T) {
	for _, tc := range []struct {
		name                           string
		lossy, lose, scattered, steady bool
	}{
		{name: "lossless"},
		{name: "lossless, history is lost", lose: true},
		{name: "lossless, history is lost, the rest is steady", lose: true, steady: true},
		{name: "lossless, scattered lists", scattered: true},
		{name: "lossless, scattered lists, history is lost", scattered: true, lose: true},
		{name: "lossless, scattered lists, history is lost, the rest is steady", scattered: true, lose: true, steady: true},
		{name: "merging", lossy: true},
		{name: "merging, scattered lists", lossy: true, scattered: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			rounds := 2
			if tc.steady {
				rounds = 10 // which are short
			}
			for range rounds {
				chaos(t, &failing{
					tapped:    tapped{Store: memkv.New(memkv.Options{WatchBuffer: 64 << 20}), lossy: tc.lossy},
					scattered: tc.scattered, steady: tc.steady,
				}, tc.lose)
			}
		})
	}
}

func chaos(t *testing.T, b *failing, lose bool) {
	s := kv.New(b, kv.WatchBuffer(2000))
	defer s.Close()
	var writing, following sync.WaitGroup
	done := make(chan struct{})
	final := sync.OnceValue(func() map[string]kv.Revision {
		there := map[string]kv.Revision{}
		for e, err := range b.Store.List(context.Background(), "", backend.ListOptions{}) { // readers outlive the test's function
			if err != nil {
				t.Error(err)
			}
			there[e.Key] = e.Revision
		}
		return there
	})
	for i := range 4 {
		rng := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
		writing.Go(func() {
			for n := range 6 {
				writes(t, s, fmt.Sprintf("w%d%d", i, n), 60, rng)
				<-time.After(3 * time.Millisecond)
			}
		})
	}
	for i := range 8 {
		var slow time.Duration
		opts := []kv.WatchOption{kv.FromSnapshot()}
		if i%2 == 1 {
			slow, opts = 2*time.Millisecond, append(opts, kv.WithPrev())
		}
		w, err := s.Watch(t.Context(), "", opts...)
		for err != nil && t.Context().Err() == nil { // opening fails like any call
			w, err = s.Watch(t.Context(), "", opts...)
		}
		v := &backendtest.Validator{Options: backend.WatchOptions{Snapshot: true, Prev: slow > 0}, Caps: s.Capabilities()}
		v.Caps.Lossless, v.Caps.Resumable, v.Caps.SnapshotList = false, false, false // differences are merged, and have no tokens
		following.Go(func() {
			if err := follow(w, v, slow, true, done, final); err != nil {
				t.Errorf("watch %d: %v", i, err)
			}
		})
		if lose {
			b.loseHistory()
		}
		<-time.After(2 * time.Millisecond)
	}
	writing.Wait()
	close(done)
	following.Wait()
}
