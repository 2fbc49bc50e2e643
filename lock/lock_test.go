package lock_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/internal/peers"
	"github.com/polykv/kv/lock"
	"github.com/polykv/kv/lock/locktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocks(t *testing.T) {
	locktest.Run(t, locktest.Harness{
		Acquisitions: 1000,
		Open:         peers.Stores(func(string) *memkv.Store { return memkv.New(memkv.Options{}) }),
	})
}

// TestLeaseOutOfRange is R28 for leases: no store is asked.
func TestLeaseOutOfRange(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	for _, d := range []time.Duration{-time.Hour, 0, time.Second - 1, backend.MaxTTL + 1, math.MaxInt64} {
		if _, err := lock.Lock(t.Context(), s, "l", lock.Lease(d)); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("a lease of %v: %v", d, err)
		}
	}
}

// TestErrors: they name the operation that the program called, and what it was
// about.
func TestErrors(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}), kv.Prefix("p"))
	defer s.Close()
	const bad = "a\x00b"
	campaign := func() error { _, err := lock.NewElection(s, bad).Campaign(t.Context(), ""); return err }
	for what, tc := range map[string]struct {
		call func() error
		want kv.Error
	}{
		"Lock":     {func() error { _, err := lock.Lock(t.Context(), s, bad); return err }, kv.Error{Op: kv.OpLock, Key: bad, Err: kv.ErrInvalidKey}},
		"LockAll":  {func() error { _, err := lock.LockAll(t.Context(), s, []string{"l", bad}); return err }, kv.Error{Op: kv.OpLock, Key: bad, Err: kv.ErrInvalidKey}},
		"Campaign": {campaign, kv.Error{Op: kv.OpLock, Key: bad, Err: kv.ErrInvalidKey}},
		"Leader":   {func() error { _, err := lock.NewElection(s, bad).Leader(t.Context()); return err }, kv.Error{Op: kv.OpObserve, Key: bad, Err: kv.ErrInvalidKey}},
		"a lease":  {func() error { _, err := lock.Lock(t.Context(), s, "l", lock.Lease(1)); return err }, kv.Error{Op: kv.OpLock, Key: "p/l", Err: kv.ErrInvalid}},
		"no slots": {func() error { _, err := lock.NewSemaphore(s, "l", 0).Acquire(t.Context()); return err }, kv.Error{Op: kv.OpLock, Key: "p/l", Err: kv.ErrInvalid}},
		"nobody":   {func() error { _, err := lock.NewElection(s, "e").Leader(t.Context()); return err }, kv.Error{Op: kv.OpObserve, Key: "p/e", Err: kv.ErrNotFound}},
	} {
		err := tc.call()
		var got *kv.Error
		if !errors.As(err, &got) || got.Op != tc.want.Op || got.Key != tc.want.Key || got.Store != "memory" || !errors.Is(err, tc.want.Err) {
			t.Errorf("%s: %v, want %v", what, err, &tc.want)
		}
	}
	_, err := lock.NewElection(s, "e").Leader(t.Context())
	if got, want := err.Error(), `kv: memory observe "p/e": nobody leads`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestPortable: the limits that kv.Portable holds a store to are those of its
// locks too.
func TestPortable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, cut atomic.Bool
		s := kv.New(memkv.New(memkv.Options{}), kv.Portable(), kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			asked.Store(true)
			if cut.Load() && c.Op == kv.OpRenew {
				return kv.ErrUnavailable
			}
			return next(ctx)
		}))
		defer s.Close()
		huge := strings.Repeat("x", kv.PortableMaxValueBytes+1)
		l, err := lock.NewElection(s, "e", lock.Lease(time.Second)).Campaign(t.Context(), huge[1:])
		if err != nil {
			t.Fatal(err)
		}
		asked.Store(false)
		_, locked := lock.Lock(t.Context(), s, "l", lock.Value(huge))
		_, campaigned := lock.NewElection(s, "f").Campaign(t.Context(), huge)
		for what, err := range map[string]error{"Lock": locked, "Campaign": campaigned, "Proclaim": l.Proclaim(t.Context(), huge)} {
			var wrapped *kv.Error
			if !errors.Is(err, kv.ErrTooLarge) || !errors.As(err, &wrapped) || wrapped.Op != kv.OpLock {
				t.Errorf("%s with a value that is too large: %v", what, err)
			}
		}
		if asked.Load() {
			t.Error("the store was asked")
		}
		cut.Store(true)
		begin := time.Now()
		<-l.Done()
		if d := time.Since(begin); d < kv.PortableMinLease/2 || d > kv.PortableMinLease {
			t.Errorf("lost after %v, of a lease of %v", d, kv.PortableMinLease)
		}
	})
}

// TestLockAllOfNothing: a store that refuses every call refuses that too.
func TestLockAllOfNothing(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}))
	set, err := lock.LockAll(t.Context(), s, nil)
	if len(set) != 0 || err != nil || set.Unlock(t.Context()) != nil {
		t.Errorf("%v, %v", set, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, late := lock.LockAll(ended, s, nil)
	_, bad := lock.LockAll(t.Context(), s.Sub("\x00"), nil)
	s.Close()
	_, closed := lock.LockAll(t.Context(), s, nil)
	for want, err := range map[error]error{context.Canceled: late, kv.ErrInvalidKey: bad, kv.ErrClosed: closed} {
		var wrapped *kv.Error
		if !errors.Is(err, want) || !errors.As(err, &wrapped) || wrapped.Op != kv.OpLock {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// TestClosedMeanwhile: a lock whose store closes behind its place in the queue
// names itself in the error.
func TestClosedMeanwhile(t *testing.T) {
	var s *kv.Store
	s = kv.New(memkv.New(memkv.Options{}), kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
		err := next(ctx)
		if c.Op == kv.OpLock {
			s.Close()
		}
		return err
	}))
	_, err := lock.Lock(t.Context(), s, "l")
	var wrapped *kv.Error
	if !errors.Is(err, kv.ErrClosed) || !errors.As(err, &wrapped) || wrapped.Op != kv.OpLock || wrapped.Key != "l" {
		t.Error(err)
	}
}

// TestCancelBesideClose: a place that Close has given up is not lost, also if
// the one who waits for it gives up too.
func TestCancelBesideClose(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	placed, released, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	calls := 0
	s := kv.New(memkv.New(memkv.Options{}), kv.Intercept(func(call context.Context, c kv.Call, next func(context.Context) error) error {
		switch c.Op {
		case kv.OpLock:
			if calls++; calls == 2 { // the wait
				close(placed)
				<-released
				cancel()
				return next(context.WithoutCancel(call))
			}
		case kv.OpUnlock:
			err := next(call)
			close(released)
			<-over // before the driver knows that it is closed
			return err
		}
		return next(call)
	}))
	go func() {
		<-placed
		s.Close()
	}()
	failed := make(chan error)
	go func() {
		_, err := lock.Lock(ctx, s, "l")
		failed <- err
	}()
	<-released
	<-ctx.Done()
	close(over)
	if err := <-failed; !errors.Is(err, context.Canceled) && !errors.Is(err, kv.ErrClosed) || errors.Is(err, kv.ErrLockLost) {
		t.Error(err)
	}
	s.Close()
}

// clinging is a store that does not answer to a release.
type clinging struct{ backend.Store }

func (s clinging) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	c, err := s.Store.Contend(ctx, name, o)
	return cling{c}, err
}

type cling struct{ backend.Contender }

func (c cling) Release(ctx context.Context) error {
	defer c.Contender.Release(ctx)
	<-ctx.Done()
	return ctx.Err()
}

// TestUnlockOfSilentStore is R38 for Unlock, of one lock and of many.
func TestUnlockOfSilentStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(clinging{memkv.New(memkv.Options{})})
		defer s.Close()
		for _, names := range [][]string{{"a"}, {"a", "b", "c", "d"}} {
			set, err := lock.LockAll(t.Context(), s, names)
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			err = set.Unlock(context.Background()) // without a deadline
			if d := time.Since(begin); d != 5*time.Second {
				t.Errorf("%d locks: Unlock took %v", len(names), d)
			}
			for _, err := range []error{err, set[0].Unlock(t.Context())} {
				var wrapped *kv.Error
				if !errors.Is(err, kv.ErrUnavailable) || !errors.As(err, &wrapped) || wrapped.Op != kv.OpUnlock || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d locks: %v", len(names), err)
				}
			}
		}
	})
}
