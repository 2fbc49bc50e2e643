package consulkv_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

// A lock leaves nothing behind: no session, no entry.
func TestLocksLeaveNothing(t *testing.T) {
	f := setUp(t)
	before := f.sessions()
	c, err := f.s.Contend(f.Context(), "l/x", backend.ContendOptions{})
	f.noErr(err)
	for _, cancelAfter := range []int64{0, 1, 2} {
		ctx, cancel := context.WithCancel(f.Context())
		start := f.net.requests.Load()
		hook := func(*http.Request) error {
			if f.net.requests.Load() > start+cancelAfter {
				cancel()
			}
			return nil
		}
		f.net.fail.Store(&hook)
		if w, err := f.s.Contend(ctx, "l/x", backend.ContendOptions{}); err == nil {
			w.Wait(ctx)
			w.Release(ctx)
		}
		f.net.fail.Store(nil)
		cancel()
	}
	_, err = f.s.Contend(f.Context(), "l/x", backend.ContendOptions{Try: true})
	f.wantErr(err, backend.ErrLocked)
	f.noErr(c.Release(f.Context()))
	f.eventually("no session and no place is left", func() bool {
		names, _, err := f.kv.KV().Keys(f.root+"=kv/locks/", "", nil)
		f.noErr(err)
		return len(names) == 0 && f.sessions() <= before
	})
}

// Contenders of one store need not learn of their place in the order of the
// queue: one that comes late may be ahead of the one that is waited for.
func TestContendersThatLearnOfTheirPlaceOutOfOrder(t *testing.T) {
	f := setUp(t)
	other := f.net.open(t, f.addr, f.root)
	defer other.Close()
	stores := []backend.Store{f.s, other}
	ctx, cancel := context.WithTimeout(f.Context(), 2*time.Minute) // the lease is longer: a stall does not end by itself
	defer cancel()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 60 {
				c, err := stores[i%2].Contend(ctx, "l", backend.ContendOptions{Lease: 5 * time.Minute})
				if err == nil {
					err = errors.Join(c.Wait(ctx), c.Release(ctx))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A reader behind a writer that gives up is admitted beside the reader that holds, not when that one leaves.
func TestFirstOfTheWaitingGivesUp(t *testing.T) {
	f := setUp(t)
	ctx, cancel := f.soon()
	defer cancel()
	other := f.net.open(t, f.addr, f.root)
	defer other.Close()
	holds, err := other.Contend(ctx, "l", backend.ContendOptions{Shared: true})
	f.noErr(err)
	f.noErr(holds.Wait(ctx))
	writer, err := f.s.Contend(ctx, "l", backend.ContendOptions{})
	f.noErr(err)
	reader, err := f.s.Contend(ctx, "l", backend.ContendOptions{Shared: true})
	f.noErr(err)
	short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	f.wantErr(writer.Wait(short), context.DeadlineExceeded)
	f.noErr(writer.Release(ctx))
	f.noErr(reader.Wait(ctx))
}
