package lock_test

import (
	"context"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/kvtest"
	"github.com/polykv/kv/lock"
)

// TestNilContext: every call panics in the caller's goroutine, and leaves
// nothing held or half unlocked.
func TestNilContext(t *testing.T) {
	ctx := t.Context()
	s := kvtest.New(t)
	held, err := lock.Lock(ctx, s, "held")
	if err != nil {
		t.Fatal(err)
	}
	leads, err := lock.NewElection(s, "led").Campaign(ctx, "me")
	if err != nil {
		t.Fatal(err)
	}
	var none context.Context
	sem, free := lock.NewSemaphore(s, "slots", 1), lock.NewElection(s, "free")
	for what, call := range map[string]func(){
		"Lock":          func() { lock.Lock(none, s, "l") },
		"TryLock":       func() { lock.TryLock(none, s, "l") },
		"RLock":         func() { lock.RLock(none, s, "l") },
		"TryRLock":      func() { lock.TryRLock(none, s, "l") },
		"LockAll":       func() { lock.LockAll(none, s, []string{"l", "m"}) },
		"LockAll of 0":  func() { lock.LockAll(none, s, nil) },
		"Do":            func() { lock.Do(none, s, "l", func(context.Context, *lock.Held) error { return nil }) },
		"Acquire":       func() { sem.Acquire(none) },
		"TryAcquire":    func() { sem.TryAcquire(none) },
		"Campaign":      func() { free.Campaign(none, "v") },
		"Lead":          func() { free.Lead(none, "v", func(context.Context, *lock.Leadership) error { return nil }) },
		"Leader":        func() { free.Leader(none) },
		"Observe":       func() { free.Observe(none) },
		"Proclaim":      func() { leads.Proclaim(none, "v") },
		"Resign":        func() { leads.Resign(none) },
		"Unlock":        func() { held.Unlock(none) },
		"Context":       func() { held.Context(none) },
		"Set.Unlock":    func() { lock.Set{held}.Unlock(none) },
		"Set.Context":   func() { lock.Set{held}.Context(none) },
		"empty Context": func() { lock.Set{}.Context(none) },
	} {
		func() {
			defer func() {
				if got := recover(); got != "kv: nil context" {
					t.Errorf("%s: %v", what, got)
				}
			}()
			call()
		}()
	}
	for _, h := range []*lock.Held{held, leads.Held} {
		if _, err := s.Put(ctx, "fenced", nil, kv.If(h.Check())); err != nil {
			t.Error(err)
		}
		if err := h.Unlock(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"l", "m", "slots", "free"} {
		h, err := lock.TryLock(ctx, s, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := h.Unlock(ctx); err != nil {
			t.Error(err)
		}
	}
}
