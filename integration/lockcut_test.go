package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// renewals notes when the last renewal that succeeded was sent.
type renewals struct {
	mu   sync.Mutex
	last time.Time
}

func (r *renewals) intercept(ctx context.Context, call kv.Call, next func(context.Context) error) error {
	sent := time.Now()
	err := next(ctx)
	if err == nil && (call.Op == kv.OpRenew || call.Op == kv.OpLock) {
		r.mu.Lock()
		if call.Op == kv.OpRenew || r.last.IsZero() { // the place is made by the first request, whatever waits after it
			r.last = sent
		}
		r.mu.Unlock()
	}
	return err
}

func (r *renewals) at() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// guarded is a lock that is held through a proxy, and one that waits for it with a connection of its own.
type guarded struct {
	t     *testing.T
	proxy *testserver.Proxy
	s     *kv.Store
	held  *lock.Held
	told  chan time.Time
	renew renewals

	stalls *pace.Stalls // when the machine stood still

	other *kv.Store
	next  chan *lock.Held
	end   context.CancelFunc
}

func guard(t *testing.T, srv lockServer) *guarded {
	root := testserver.UniqueName(t)
	g := &guarded{
		t: t, proxy: testserver.NewProxy(t, srv.Addrs()[0]),
		told: make(chan time.Time, 1), next: make(chan *lock.Held, 1), stalls: pace.Watch(t),
	}
	g.s = srv.open(t, g.proxy.Addr(), root, kv.Intercept(g.renew.intercept))
	queued := make(chan struct{}, 1)
	requests := 0
	g.other = srv.open(t, srv.Addrs()[0], root, kv.Intercept(func(ctx context.Context, call kv.Call, next func(context.Context) error) error {
		if call.Op == kv.OpLock {
			if requests++; requests == 2 { // the first makes the place, the second waits for admission
				queued <- struct{}{}
			}
		}
		return next(ctx)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	g.end = cancel
	var err error
	if g.held, err = lock.Lock(ctx, g.s, "l", lock.Lease(srv.lease)); err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(g.held.Context(context.WithoutCancel(ctx)), func() { g.told <- time.Now() })
	waiting := make(chan struct{})
	t.Cleanup(func() { cancel(); <-waiting })
	go func() {
		defer close(waiting)
		for ctx.Err() == nil {
			h, err := lock.Lock(ctx, g.other, "l", lock.Lease(srv.lease))
			if errors.Is(err, kv.ErrLockLost) || errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain) {
				continue // the server was away for longer than a place lasts
			}
			if err == nil {
				g.next <- h
			} else if ctx.Err() == nil {
				t.Errorf("the next contender: %v", err)
			}
			return
		}
	}()
	<-queued
	return g
}

// keptOrTold waits until the holder has lost the lock or has renewed it again after now, and demands that the first is told
// in time, and the second can be proved. It reports whether the lock was kept.
func (g *guarded) keptOrTold(lease time.Duration) bool {
	g.t.Helper()
	start := time.Now()
	for {
		select {
		case at := <-g.told:
			if !errors.Is(g.held.Err(), kv.ErrLockLost) {
				g.t.Errorf("Err of a lock whose context has ended: %v", g.held.Err())
			}
			g.inTime(at, lease)
			g.over()
			return false
		case <-g.next:
			// Told first, but chosen second?
			if g.held.Err() == nil {
				g.t.Fatal("another holds the lock, and the first was not told")
			}
			g.t.Fatal("another holds the lock, and the first was told at the same time")
		case <-time.After(10 * time.Millisecond):
		}
		if g.renew.at().After(start) {
			break
		}
		if time.Since(start) > lease+lockPatience+g.stalls.Since(start) {
			g.t.Fatal("the lock is neither renewed nor lost")
		}
	}
	g.fenced("kept", nil)
	if _, err := lock.TryLock(g.t.Context(), g.s, "l"); !errors.Is(err, kv.ErrLocked) {
		g.t.Errorf("TryLock of a lock that is kept: %v", err)
	}
	if err := g.held.Unlock(g.t.Context()); err != nil {
		g.t.Errorf("Unlock of a lock that was kept: %v", err)
	}
	g.release(lockPatience)
	return true
}

// inTime demands that the holder was told no later than the end of its lease, on a machine that runs.
func (g *guarded) inTime(at time.Time, lease time.Duration) {
	g.t.Helper()
	if late := at.Sub(g.renew.at().Add(lease)); late > lockLag+g.stalls.Since(g.renew.at()) {
		g.t.Errorf("the holder was told %v after the end of its lease", late)
	}
}

// over checks a lock that was lost: the next contender gets it, and the first one's writes are refused.
func (g *guarded) over() {
	g.t.Helper()
	g.release(lockPatience)
	g.fenced("lost", kv.ErrLockLost)
	if err := g.held.Unlock(g.t.Context()); !errors.Is(err, kv.ErrLockLost) {
		g.t.Errorf("Unlock of a lock that was lost: %v", err)
	}
}

func (g *guarded) fenced(what string, want error) {
	g.t.Helper()
	_, err := g.other.Put(g.t.Context(), "fenced", []byte(what), kv.If(g.held.Check()))
	if !errors.Is(err, want) {
		g.t.Errorf("a write under a lock that was %s: %v, want %v", what, err, want)
	}
}

// release waits until the next contender has the lock.
func (g *guarded) release(within time.Duration) {
	g.t.Helper()
	ctx, cancel := g.stalls.Timeout(g.t.Context(), within)
	defer cancel()
	select {
	case h := <-g.next:
		if h.Token() <= g.held.Token() {
			g.t.Errorf("token %d after %d", h.Token(), g.held.Token())
		}
		if err := h.Unlock(g.t.Context()); err != nil {
			g.t.Errorf("the next holder's Unlock: %v", err)
		}
	case <-ctx.Done():
		g.t.Fatalf("the next contender has no lock after %v", within)
	}
}

// TestLockConnection breaks the connection to the server, and the server, while a lock is held.
func TestLockConnection(t *testing.T) {
	onLockServers(t, func(t *testing.T, srv lockServer) {
		both := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { t.Parallel(); f(t) }) }
		t.Run("network", func(t *testing.T) {
			both("cut", func(t *testing.T) {
				for range 3 { // a machine that stands still for the lease loses it by that
					g, begin := guard(t, srv), time.Now()
					for range 3 {
						g.proxy.Cut()
					}
					if g.keptOrTold(srv.lease) {
						return
					}
					if g.stalls.Since(begin) < srv.lease/4 {
						break
					}
				}
				t.Error("a lock was lost with a connection that could be made again at once")
			})
			both("refused", func(t *testing.T) {
				g := guard(t, srv)
				g.proxy.Refuse(true)
				g.proxy.Cut()
				if g.keptOrTold(srv.lease) {
					t.Error("the lock was renewed without a connection")
				}
				g.proxy.Refuse(false)
			})
			both("silent", func(t *testing.T) {
				g := guard(t, srv)
				g.proxy.Stall()
				if g.keptOrTold(srv.lease) {
					t.Error("the lock was renewed over a network that says nothing")
				}
				g.proxy.Resume()
			})
			both("silent at Unlock", func(t *testing.T) { unlockSilent(t, srv) })
		})
		t.Run("server killed", func(t *testing.T) {
			g := guard(t, srv)
			if err := errors.Join(srv.Kill(), srv.Restart(t.Context())); err != nil {
				t.Fatal(err)
			}
			t.Logf("kept: %v", g.keptOrTold(srv.lease))
		})
		t.Run("server paused", func(t *testing.T) {
			g := guard(t, srv)
			if err := srv.Pause(); err != nil {
				t.Fatal(err)
			}
			g.inTime(<-g.told, srv.lease)
			if err := srv.Resume(); err != nil {
				t.Fatal(err)
			}
			g.over()
		})
	})
}

// unlockSilent unlocks, without a deadline, over a network that says nothing.
func unlockSilent(t *testing.T, srv lockServer) {
	g := guard(t, srv)
	g.proxy.Stall()
	start := time.Now()
	err := g.held.Unlock(context.WithoutCancel(t.Context()))
	if took := time.Since(start); took > 5*time.Second+2*lockLag+g.stalls.Since(start) {
		t.Errorf("Unlock took %v", took)
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUncertain) {
		t.Errorf("Unlock: %v, want %v", err, kv.ErrUnavailable)
	}
	if again := g.held.Unlock(t.Context()); !errors.Is(again, err) && fmt.Sprint(again) != fmt.Sprint(err) {
		t.Errorf("Unlock again: %v, want %v", again, err)
	}
	g.proxy.Resume()
	g.release(srv.lease + 2*time.Second + lockLag)
}

// TestLockDataLost restarts a Redis that keeps nothing while a lock is held: the holder is told by its next renewal, and nobody
// holds the lock before.
func TestLockDataLost(t *testing.T) {
	t.Parallel()
	srv := lockServer{testserver.Start(t, testserver.Spec{Store: testserver.Redis}), 3 * time.Second}
	g := guard(t, srv)
	if err := errors.Join(srv.Kill(), srv.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	if g.keptOrTold(srv.lease) {
		t.Error("a lock was renewed that the server had forgotten")
	}
}
