package kv_test

import (
	"context"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/codec"
)

// panics fails the test unless f does, in this goroutine and about the nil
// context.
func panics(t testing.TB, what string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := recover(); got != "kv: nil context" {
			t.Errorf("%s: %v", what, got)
		}
	}()
	f()
}

// TestNilContext: in a goroutine of the library the panic would end the
// process.
func TestNilContext(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t)
	ns := kv.NewTyped(s, codec.JSON[int](), "n")
	reg := must[*kv.Registration[int]](t)(ns.Register(ctx, "r", 1, time.Minute))
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	before := b.calls.Load()

	var none context.Context
	for op, call := range calls(none, s, "k") {
		if op != "key" {
			panics(t, op, func() { call() })
		}
	}
	for op, call := range prefixCalls(none, s, "k") {
		panics(t, op, func() { call() })
	}
	for op, call := range idleCalls(none, s) {
		panics(t, op, func() { call() })
	}
	for what, call := range map[string]func(){
		"list without a loop":  func() { ns.List(none, "") },
		"delete with a check":  func() { s.Delete(none, "k", kv.If(kv.Check{Key: "x"})) },
		"do":                   func() { s.Do(none, kv.OpLock, "k", func(context.Context) error { return nil }) },
		"registration context": func() { reg.Context(none) },
		"registration update":  func() { reg.Update(none, 2) },
		"registration release": func() { reg.Release(none) },
		"next":                 func() { w.Next(none) },
		"sync":                 func() { w.Sync(none) },
		"retry":                func() { kv.RetryOnConflict(none, func(context.Context) error { return nil }) },
		"open":                 func() { kv.Drivers{boltkv.Driver{}}.Open(none, "bolt://"+t.TempDir()+"/db") },
	} {
		panics(t, what, call)
	}
	if n := b.calls.Load() - before; n != 0 {
		t.Errorf("%d calls reached the store", n)
	}
	// Nothing is left locked or half done.
	if err := reg.Update(ctx, 3); err != nil {
		t.Error(err)
	}
	if ev := must[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Key != "n/r" {
		t.Errorf("the watch tells %v", ev)
	}
	if err := reg.Release(ctx); err != nil {
		t.Error(err)
	}
}
