package watch_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch"
)

func TestMirrorOpens(t *testing.T) {
	s := newStore(t, kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
		if c.Op == kv.OpWatch && c.Key == "slow" {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return next(ctx)
	}))
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := watch.NewMirror(ctx, s.Sub("slow"))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if _, err = watch.NewMirror(ctx, s.Sub("slow")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that ends: %v", err)
	}
	if _, err = watch.NewMirror(t.Context(), s.Sub("\x00")); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("of no prefix: %v", err)
	}
	// The context bounds the opening only.
	ctx, stop = context.WithCancel(t.Context())
	m, err := watch.NewMirror(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := m.Sync(limited(t)); err != nil || m.Err() != nil {
		t.Errorf("after the end of the context that opened it: %v, %v", err, m.Err())
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

func TestMirrorEnds(t *testing.T) {
	for _, by := range []string{"its Close", "the store's Close"} {
		t.Run(by, func(t *testing.T) {
			s := kv.New(memkv.New(memkv.Options{}))
			defer s.Close()
			src := numbers(s)
			put(t, src, "k", 1)
			m, err := watch.NewMirror(limited(t), src)
			if err != nil {
				t.Fatal(err)
			}
			sub := m.Subscribe()
			next(t, sub, "existing k 1")
			next(t, sub, "synced")
			if by == "its Close" {
				m.Close()
			} else {
				s.Close()
			}
			<-m.Done()
			wantErr := by != "its Close"
			if got := errors.Is(m.Err(), kv.ErrClosed); got != wantErr {
				t.Errorf("Err is %v", m.Err())
			}
			for range 2 {
				if _, err := sub.Next(limited(t)); !errors.Is(err, kv.ErrClosed) {
					t.Errorf("the subscription's error: %v", err)
				}
			}
			if err := m.Sync(limited(t)); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("Sync: %v", err)
			}
			// What it has can still be had.
			if e, ok := m.Get("k"); !ok || e.Value != 1 {
				t.Errorf("Get: %v %v", e, ok)
			}
			late := m.Subscribe()
			next(t, late, "existing k 1")
			next(t, late, "synced")
			if _, err := late.Next(limited(t)); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("a late subscription's error: %v", err)
			}
			ix := watch.NewIndex(m, func(e kv.Entry[int]) []int { return []int{e.Value} })
			if n := len(slices.Collect(ix.Get(1))); n != 1 {
				t.Errorf("a late index finds %d", n)
			}
			if err := errors.Join(sub.Close(), late.Close(), ix.Close(), m.Close(), m.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMirrorExpires: an entry goes at its TTL, without a reader.
func TestMirrorExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		src := numbers(s)
		m, err := watch.NewMirror(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if _, err := src.Put(t.Context(), "k", 1, kv.TTL(5*time.Second)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if m.Len() != 1 {
			t.Fatal("not there")
		}
		time.Sleep(5*time.Second + s.Capabilities().TTLSlack) // virtual time
		synctest.Wait()
		if m.Len() != 0 {
			t.Error("still there after its TTL")
		}
	})
}
