package keepalive

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 30 * time.Second

func lease(renew func(context.Context) error) Lease {
	return Lease{TTL: ttl, Renewed: time.Now(), Renew: renew, LostErr: backend.ErrLeaseLost}
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func alive(t *testing.T, k *Keeper) {
	t.Helper()
	synctest.Wait()
	select {
	case <-k.Done():
		t.Fatalf("lost: %v", k.Err())
	default:
	}
	if err := k.Err(); err != nil {
		t.Fatalf("not done, and %v", err)
	}
}

func TestRenewsThriceInTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n atomic.Int64
		k := Start(lease(func(context.Context) error { n.Add(1); return nil }))
		time.Sleep(100*ttl + time.Second)
		alive(t, k)
		if got := n.Load(); got != 300 {
			t.Errorf("%d renewals in 100 TTLs", got)
		}
		k.Stop()
		time.Sleep(10 * ttl)
		if got := n.Load(); got != 300 || k.Err() != nil {
			t.Errorf("after Stop: %d renewals, error %v", got-300, k.Err())
		}
	})
}

// TestLossIsTold: whatever becomes of renewals, the holder knows no later than
// a TTL after the last one that succeeded was sent (R32), and not long before.
func TestLossIsTold(t *testing.T) {
	unavailable := func(context.Context) error { return backend.ErrUnavailable }
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, fails := range map[string]func(context.Context) error{
		"unavailable": unavailable,
		"hanging":     hangs,
		"deaf": func(context.Context) error { // to its context as well
			time.Sleep(10 * ttl)
			return nil
		},
		"slow to fail": func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			return backend.ErrUncertain
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var ok atomic.Bool
				ok.Store(true)
				var sent, tries atomic.Int64
				start := time.Now()
				k := Start(lease(func(ctx context.Context) error {
					if !ok.Load() {
						tries.Add(1)
						return fails(ctx)
					}
					sent.Store(int64(time.Since(start)))
					time.Sleep(2 * time.Second) // the answer takes its time
					return nil
				}))
				time.Sleep(2*ttl + time.Second)
				alive(t, k)
				ok.Store(false)
				ctx := k.Context(t.Context())
				<-k.Done()
				told := time.Since(start) - time.Duration(sent.Load())
				if told > ttl || told < ttl*9/10 {
					t.Errorf("told %v after the last renewal was sent, of a TTL of %v", told, ttl)
				}
				if !errors.Is(k.Err(), backend.ErrLeaseLost) {
					t.Errorf("Err is %v", k.Err())
				}
				synctest.Wait()
				if ctx.Err() != context.Canceled || !errors.Is(context.Cause(ctx), backend.ErrLeaseLost) {
					t.Errorf("its context: %v, cause %v", ctx.Err(), context.Cause(ctx))
				}
				if n := tries.Load(); name != "deaf" && (n < 2 || n > 200) {
					t.Errorf("%d tries", n)
				}
				first := k.Err()
				k.Stop()
				if k.Err() != first {
					t.Errorf("Stop changed the loss to %v", k.Err())
				}
			})
		})
	}
}

// TestRecovers: a failure that ends in time costs nothing.
func TestRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		k := Start(lease(func(context.Context) error {
			// Away for half a TTL of every minute.
			if time.Since(start)%time.Minute > time.Minute-ttl/2 {
				return backend.ErrUnavailable
			}
			return nil
		}))
		time.Sleep(time.Hour)
		alive(t, k)
		k.Stop()
	})
}

func TestLostIsFinal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n atomic.Int64
		why := errors.New("somebody wrote the key")
		k := Start(lease(func(context.Context) error {
			n.Add(1)
			return backend.Because(backend.ErrLeaseLost, why)
		}))
		<-k.Done()
		if !errors.Is(k.Err(), backend.ErrLeaseLost) || !errors.Is(k.Err(), why) {
			t.Errorf("Err is %v", k.Err())
		}
		time.Sleep(10 * ttl)
		if n.Load() != 1 {
			t.Errorf("renewed %d times after the loss", n.Load()-1)
		}
		k.Stop()
	})
}

func TestDriverTells(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lost := make(chan struct{})
		l := lease(func(context.Context) error { return nil })
		l.Lost = lost
		k := Start(l)
		start := time.Now()
		close(lost)
		<-k.Done()
		if time.Since(start) != 0 || !errors.Is(k.Err(), backend.ErrLeaseLost) {
			t.Errorf("after %v: %v", time.Since(start), k.Err())
		}
		k.Stop()
	})
}

// TestDriverTellsBesideRenewal: a renewal that hangs does not keep the loss from
// the holder.
func TestDriverTellsBesideRenewal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		entered, lost := make(chan struct{}), make(chan struct{})
		var left atomic.Bool
		l := lease(func(ctx context.Context) error {
			close(entered)
			<-ctx.Done()
			left.Store(true)
			return ctx.Err()
		})
		l.Lost = lost
		k := Start(l)
		<-entered
		start := time.Now()
		close(lost)
		<-k.Done()
		if time.Since(start) != 0 || !errors.Is(k.Err(), backend.ErrLeaseLost) {
			t.Errorf("after %v: %v", time.Since(start), k.Err())
		}
		k.Stop()
		if !left.Load() {
			t.Error("Stop did not wait for the renewal under way")
		}
	})
}

// TestStartsLate: a lease whose time is up already is lost at once.
func TestStartsLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := lease(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		l.Renewed = time.Now().Add(-ttl)
		k := Start(l)
		start := time.Now()
		<-k.Done()
		if took := time.Since(start); took > time.Millisecond || !errors.Is(k.Err(), backend.ErrLeaseLost) {
			t.Errorf("after %v: %v", took, k.Err())
		}
		k.Stop()
	})
}

func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		entered := make(chan struct{}, 1)
		var left atomic.Bool
		k := Start(lease(func(ctx context.Context) error {
			entered <- struct{}{}
			<-ctx.Done()
			time.Sleep(time.Second)
			left.Store(true)
			return ctx.Err()
		}))
		ctx := k.Context(t.Context())
		<-entered
		for range 3 {
			go k.Stop()
		}
		k.Stop()
		if !left.Load() {
			t.Error("Stop did not wait for the renewal under way")
		}
		if k.Err() != nil {
			t.Errorf("Err after Stop: %v", k.Err())
		}
		select {
		case <-k.Done():
		default:
			t.Error("not done after Stop")
		}
		if !errors.Is(ctx.Err(), context.Canceled) || context.Cause(ctx) != context.Canceled {
			t.Errorf("its context: %v, cause %v", ctx.Err(), context.Cause(ctx))
		}
		synctest.Wait()
	})
}

func TestContexts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type name struct{}
		why := errors.New("the parent's reason")
		parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), name{}, "v"))
		var lost atomic.Bool
		k := Start(lease(func(context.Context) error {
			if lost.Load() {
				return backend.ErrLeaseLost
			}
			return nil
		}))
		first, second := k.Context(parent), k.Context(t.Context())
		if first.Value(name{}) != "v" {
			t.Error("a value of the parent's is gone")
		}
		cancel(why)
		synctest.Wait()
		if !errors.Is(context.Cause(first), why) || second.Err() != nil {
			t.Errorf("causes: %v, %v", context.Cause(first), context.Cause(second))
		}
		k.mu.Lock()
		if len(k.contexts) != 1 {
			t.Errorf("%d contexts are kept", len(k.contexts))
		}
		k.mu.Unlock()
		lost.Store(true)
		<-k.Done()
		late := k.Context(t.Context())
		for _, ctx := range []context.Context{second, late} {
			if ctx.Err() == nil || !errors.Is(context.Cause(ctx), backend.ErrLeaseLost) {
				t.Errorf("after the loss: %v, cause %v", ctx.Err(), context.Cause(ctx))
			}
		}
		k.Stop()
	})
}
