package watch_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch"
)

func TestValue(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	ctx := limited(t)
	var bad atomic.Int64
	v, err := watch.NewValue(ctx, src, "/limit/", -1, watch.OnBadValue(func(err error) {
		if undecodable(err) {
			bad.Add(1)
		}
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	check := func(want int) {
		t.Helper()
		if err := v.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if got := v.Load(); got != want {
			t.Fatalf("the value is %d, want %d", got, want)
		}
	}
	check(-1)
	changed := v.Changed()
	put(t, src, "limit/below", 9) // another key
	put(t, src, "limit", 5)
	<-changed
	check(5)
	if _, err := s.Put(ctx, "n/limit", []byte("five")); err != nil {
		t.Fatal(err)
	}
	check(5)
	if n := bad.Load(); n != 1 {
		t.Errorf("%d bad values were told", n)
	}
	changed = v.Changed()
	del(t, src, "limit")
	<-changed
	check(-1)
	put(t, src, "limit", 0)
	check(0)
	if err := errors.Join(v.Close(), v.Close(), v.Err()); err != nil {
		t.Errorf("after Close: %v", err)
	}
	<-v.Done()
	if v.Load() != 0 {
		t.Errorf("after Close the value is %d", v.Load())
	}
}

func TestValueOpens(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	if _, err := s.Put(t.Context(), "n/bad", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.NewValue(t.Context(), src, "bad", 0); !undecodable(err) {
		t.Errorf("of a value that does not decode: %v", err)
	}
	if _, err := watch.NewValue(t.Context(), src, "//", 0); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("of no key: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	cancel(why)
	if _, err := watch.NewValue(ctx, src, "k", 0); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
	put(t, src, "k", 3)
	ctx, stop := context.WithCancel(t.Context())
	v, err := watch.NewValue(ctx, src, "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	stop() // bounds the opening only
	if v.Load() != 3 {
		t.Errorf("the value is %d", v.Load())
	}
	put(t, src, "k", 4)
	if err := v.Sync(limited(t)); err != nil || v.Load() != 4 {
		t.Errorf("the value is %d, %v", v.Load(), err)
	}
}

func TestValueRepairs(t *testing.T) {
	b := &lossy{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	src := numbers(s)
	put(t, src, "k", 1)
	v, err := watch.NewValue(limited(t), src, "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for i := range 50 {
		b.lose()
		if i%5 == 4 {
			del(t, src, "k")
		} else {
			put(t, src, "k", i)
		}
	}
	put(t, src, "k", 99)
	soon(t, "the value is the last one", func() bool { return v.Load() == 99 })
	del(t, src, "k")
	soon(t, "the value is absent", func() bool { return v.Load() == 0 })
}

func TestValueEndsWithStore(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}))
	v, err := watch.NewValue(limited(t), numbers(s), "k", 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-v.Done()
	if !errors.Is(v.Err(), kv.ErrClosed) || v.Load() != 1 {
		t.Errorf("%v, %d", v.Err(), v.Load())
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}
