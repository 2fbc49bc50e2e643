package kv_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// TestLateWatches opens watches of a shared upstream while writers run ahead of
// all of them: queues overflow, the store's history is lost to the upstream and
// to those that replay it, in the midst of snapshots, replays and repairs. What
// each is told must follow from what it knew, and end in the store's state.
func TestLateWatches(t *testing.T) {
	for _, tc := range []struct{ history, buffer int }{
		{16 << 10, 4 << 10}, {64 << 10, 2 << 10}, {4 << 10, 64 << 10}, {256 << 10, 16 << 10},
	} {
		t.Run(fmt.Sprintf("history %d, buffer %d", tc.history, tc.buffer), func(t *testing.T) {
			t.Parallel()
			b := memkv.New(memkv.Options{WatchBuffer: tc.history})
			s := kv.New(b, kv.WatchBuffer(tc.buffer))
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
						default:
						}
						writes(t, s, fmt.Sprintf("w%d", i), 100, rng)
						for n := range rng.IntN(8) {
							if err := s.Delete(t.Context(), fmt.Sprintf("w%d/%d", i, n)); err != nil && !errors.Is(err, kv.ErrNotFound) {
								t.Errorf("delete: %v", err)
								return
							}
						}
					}
				})
			}
			final := sync.OnceValue(func() map[string]kv.Revision { return revisions(t, s, "") })
			for i := range 16 {
				w, err := s.Watch(t.Context(), "", kv.FromSnapshot())
				if err != nil {
					t.Errorf("watch: %v", err)
					break
				}
				slow := time.Duration(0)
				if i%3 == 0 {
					slow = time.Millisecond
				}
				v := &backendtest.Validator{Options: backend.WatchOptions{Snapshot: true}, Caps: s.Capabilities()}
				v.Caps.Lossless, v.Caps.Resumable = false, false // differences are merged, and have no tokens
				following.Go(func() {
					if err := follow(w, v, slow, true, done, final); err != nil {
						t.Errorf("watch %d: %v", i, err)
					}
				})
				<-time.After(time.Duration(rand.IntN(30)) * time.Millisecond)
			}
			close(stop)
			writing.Wait()
			close(done)
			following.Wait()
		})
	}
}
