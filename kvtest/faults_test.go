package kvtest_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/kvtest"
	"github.com/polykv/kv/lock"
)

func TestFailNext(t *testing.T) {
	var faults kvtest.Faults
	s := kvtest.New(t, kv.Intercept(faults.Intercept))
	faults.FailNext(kv.OpPut, kv.ErrPermission, nil, kv.ErrUnavailable)
	faults.FailNext(kv.OpGet)

	for i, want := range []error{kv.ErrPermission, nil, kv.ErrUnavailable, nil} {
		_, err := s.Put(t.Context(), "a", []byte{byte(i)})
		if !errors.Is(err, want) {
			t.Errorf("Put %d: %v; want %v", i, err, want)
		}
		var e *kv.Error
		if want != nil && (!errors.As(err, &e) || e.Op != kv.OpPut || e.Key != "a") {
			t.Errorf("Put %d: %#v is not wrapped as a store's error is", i, err)
		}
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("the first Get: %v; want ErrUnavailable", err)
	}
	if e, err := s.Get(t.Context(), "a"); err != nil || e.Value[0] != 3 {
		t.Errorf("the second Get: %v, %v; want the last Put that passed", e.Value, err)
	}
}

// What failed before the store was reached did not happen; what lost its reply
// did.
func TestLoseReply(t *testing.T) {
	var faults kvtest.Faults
	s := kvtest.New(t, kv.Intercept(faults.Intercept))
	w, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}

	faults.LoseReply(kv.OpCreate)
	if _, err := s.Create(t.Context(), "a", []byte("1")); !errors.Is(err, kv.ErrUncertain) {
		t.Fatalf("Create: %v; want ErrUncertain", err)
	}
	if _, err := s.Create(t.Context(), "a", []byte("1")); !errors.Is(err, kv.ErrExists) {
		t.Errorf("Create again: %v; want ErrExists", err)
	}

	faults.LoseReply(kv.OpDelete)
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, kv.ErrUncertain) {
		t.Errorf("Delete: %v; want ErrUncertain", err)
	}
	// A refusal is lost as well.
	faults.LoseReply(kv.OpDelete)
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, kv.ErrUncertain) || errors.Is(err, kv.ErrNotFound) {
		t.Errorf("Delete of nothing: %v; want ErrUncertain alone", err)
	}

	tx := s.Txn()
	tx.Put("b", []byte("1"))
	faults.LoseReply(kv.OpCommit)
	if _, err := tx.Commit(t.Context()); !errors.Is(err, kv.ErrUncertain) {
		t.Errorf("Commit: %v; want ErrUncertain", err)
	}
	put(t, s, "c", "")

	for _, want := range []string{"created a", "deleted a", "created b", "created c"} {
		ev, err := w.Next(t.Context())
		if got := ev.Kind.String() + " " + ev.Key; err != nil || got != want {
			t.Fatalf("event %q, %v; want %q", got, err, want)
		}
	}
	if n := faults.Pending(); n != 0 {
		t.Errorf("%d faults are left", n)
	}
}

// A program that increments must not do so twice when a reply is lost: Modify
// leaves that decision to its caller.
func TestModifyUnderFaults(t *testing.T) {
	var faults kvtest.Faults
	s := kvtest.New(t, kv.Intercept(faults.Intercept))
	put(t, s, "n", "")
	grow := func() error {
		_, err := s.Modify(t.Context(), "n", func(e *kv.Entry[[]byte]) error {
			e.Value = append(e.Value, '1')
			return nil
		})
		return err
	}
	faults.FailNext(kv.OpUpdate, kv.ErrConflict, kv.ErrConflict) // two rounds more
	if err := grow(); err != nil {
		t.Errorf("Modify between conflicts: %v", err)
	}
	faults.LoseReply(kv.OpUpdate)
	if err := grow(); !errors.Is(err, kv.ErrUncertain) {
		t.Errorf("Modify with its reply lost: %v", err)
	}
	if e, err := s.Get(t.Context(), "n"); err != nil || string(e.Value) != "11" {
		t.Errorf("%q, %v; want each change once", e.Value, err)
	}
}

func TestReadsLoseTheirReplyWithoutDoubt(t *testing.T) {
	var faults kvtest.Faults
	s := kvtest.New(t, kv.Intercept(faults.Intercept))
	put(t, s, "a", "1")
	faults.LoseReply(kv.OpGet)
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain) {
		t.Errorf("Get: %v; want ErrUnavailable", err)
	}
	// A list has delivered what it has by the time its end is lost.
	faults.LoseReply(kv.OpList)
	es, err := kv.Collect(s.List(t.Context(), ""))
	if len(es) != 1 || !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("List: %d entries, %v", len(es), err)
	}
	// A watch whose opening is not heard of is closed again, and not when
	// its context ends.
	running := runtime.NumGoroutine()
	faults.LoseReply(kv.OpWatch)
	if _, err := s.Watch(context.Background(), ""); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("Watch: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > running; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before the watch, %d after it failed", running, runtime.NumGoroutine())
		}
	}
}

// A lock is two calls, and one that fails at either leaves nothing behind.
func TestFaultsOfLocks(t *testing.T) {
	var faults kvtest.Faults
	s := kvtest.New(t, kv.Intercept(faults.Intercept))
	for what, order := range map[string]func(){
		"the place":              func() { faults.FailNext(kv.OpLock) },
		"the reply of the place": func() { faults.LoseReply(kv.OpLock) },
		"the wait":               func() { faults.FailNext(kv.OpLock, nil, kv.ErrUnavailable) },
	} {
		order()
		if _, err := lock.Lock(t.Context(), s, "l"); !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUncertain) {
			t.Errorf("%s: %v", what, err)
		}
		if n := faults.Pending(); n != 0 {
			t.Errorf("%s: %d faults are left", what, n)
		}
		held, err := lock.TryLock(t.Context(), s, "l")
		if err != nil {
			t.Fatalf("after %s: %v", what, err)
		}
		if err := held.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
