package lock_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/lock"
)

var errEnough = errors.New("enough")

// taciturn is a store that tells nobody of a loss before it is asked.
type taciturn struct {
	backend.Store
	mu   sync.Mutex
	last backend.Contender
}

func (s *taciturn) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	c, err := s.Store.Contend(ctx, name, o)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = c
	return untold{c}, nil
}

// revoke takes the last place back, as an administrator of the store may.
func (s *taciturn) revoke(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Release(ctx)
}

type untold struct{ backend.Contender }

func (untold) Lost() <-chan struct{} { return nil }

// TestLeadAfterRefusal: whose write the store has refused leads no longer, told
// or not, and stands again; who has resigned, or returns another lock's loss,
// does not.
func TestLeadAfterRefusal(t *testing.T) {
	b := &taciturn{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	e := lock.NewElection(s, "e")
	for what, tc := range map[string]struct {
		lose  func(context.Context, *lock.Leadership) error
		terms int
	}{
		"revoked": {func(ctx context.Context, l *lock.Leadership) error {
			if err := b.revoke(ctx); err != nil {
				return err
			}
			_, err := s.Put(ctx, "k", nil, kv.If(l.Check()))
			if l.Err() != nil {
				t.Error("the holder was told: this tests nothing")
			}
			return err
		}, 2},
		"resigned": {func(ctx context.Context, l *lock.Leadership) error {
			if err := l.Resign(ctx); err != nil {
				return err
			}
			return l.Proclaim(context.WithoutCancel(ctx), "v")
		}, 1},
		"another's": {func(ctx context.Context, _ *lock.Leadership) error { return kv.ErrLockLost }, 1},
	} {
		terms := 0
		err := e.Lead(t.Context(), "v", func(ctx context.Context, l *lock.Leadership) error {
			if terms++; terms > 1 {
				return errEnough
			}
			return tc.lose(ctx, l)
		})
		want := kv.ErrLockLost
		if tc.terms > 1 {
			want = errEnough
		}
		if terms != tc.terms || !errors.Is(err, want) {
			t.Errorf("%s: %d terms, %v; want %d, %v", what, terms, err, tc.terms, want)
		}
	}
}

// absent is a store that can be away.
type absent struct {
	away  atomic.Bool
	asked atomic.Int64 // while it was away
}

func (a *absent) intercept(ctx context.Context, c kv.Call, next func(context.Context) error) error {
	if a.away.Load() {
		if c.Op == kv.OpLock && a.asked.Add(1) == 5 {
			a.away.Store(false)
		}
		return kv.ErrUnavailable
	}
	return next(ctx)
}

// TestLeadOutlastsOutage: the store's absence, by which the leadership was
// lost, does not end Lead; that it is not there to begin with does.
func TestLeadOutlastsOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a absent
		s := kv.New(memkv.New(memkv.Options{}), kv.Intercept(a.intercept))
		defer s.Close()
		e := lock.NewElection(s, "e", lock.Lease(3*time.Second))
		terms := 0
		lead := func(ctx context.Context, l *lock.Leadership) error {
			if terms++; terms > 1 {
				return errEnough
			}
			a.away.Store(true)
			<-ctx.Done()
			return nil
		}
		a.away.Store(true)
		if err := e.Lead(t.Context(), "v", lead); !errors.Is(err, kv.ErrUnavailable) || terms != 0 {
			t.Errorf("of a store that is not there: %d terms, %v", terms, err)
		}
		a.away.Store(false)
		if err := e.Lead(t.Context(), "v", lead); !errors.Is(err, errEnough) || terms != 2 {
			t.Errorf("%d terms, %v", terms, err)
		}
	})
}

// TestLeadEndsWithContext: it says so, whatever it was about to try again.
func TestLeadEndsWithContext(t *testing.T) {
	for _, when := range []string{"the place is lost", "the leadership is lost"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				why := errors.New("shutting down")
				ctx, cancel := context.WithCancelCause(t.Context())
				s := kv.New(memkv.New(memkv.Options{}), kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
					switch {
					case c.Op == kv.OpRenew:
						return kv.ErrLockLost
					case c.Op == kv.OpLock && when == "the place is lost":
						time.AfterFunc(time.Millisecond, func() { cancel(why) }) // before Lead stands again
						return kv.ErrLockLost
					}
					return next(ctx)
				}))
				defer s.Close()
				err := lock.NewElection(s, "e").Lead(ctx, "v", func(ctx context.Context, l *lock.Leadership) error {
					<-ctx.Done()
					cancel(why)
					return nil
				})
				if !errors.Is(err, kv.ErrLockLost) || !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
					t.Error(err)
				}
			})
		})
	}
}

// mute is a store that says nothing of holders.
type mute struct{ backend.Store }

func (mute) Holders(ctx context.Context, _ string) iter.Seq2[backend.Holder, error] {
	return func(func(backend.Holder, error) bool) { <-ctx.Done() }
}

// TestLeaderOfSilentStore is R38 for Leader.
func TestLeaderOfSilentStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(mute{memkv.New(memkv.Options{})})
		defer s.Close()
		e := lock.NewElection(s, "e")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for ctx, want := range map[context.Context]error{
			context.Background(): kv.ErrUnavailable, // without a deadline
			short:                context.DeadlineExceeded,
		} {
			begin := time.Now()
			done := make(chan error, 1)
			ctx, stop := context.WithCancel(ctx)
			go func() {
				_, err := e.Leader(ctx)
				done <- err
			}()
			select {
			case err := <-done:
				var wrapped *kv.Error
				if !errors.Is(err, want) || !errors.As(err, &wrapped) || wrapped.Op != kv.OpObserve || wrapped.Key != "e" {
					t.Errorf("%v, want %v", err, want)
				}
			case <-time.After(time.Minute): // virtual time
				t.Errorf("still waiting after %v", time.Since(begin))
			}
			stop()
		}
	})
}
