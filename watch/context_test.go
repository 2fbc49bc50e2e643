package watch_test

import (
	"context"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/kvtest"
	"github.com/polykv/kv/watch"
)

// TestNilContext: every call panics in the caller's goroutine.
func TestNilContext(t *testing.T) {
	src := kv.NewTyped(kvtest.New(t), codec.JSON[int](), "")
	e, err := src.Put(t.Context(), "k", 1)
	if err != nil {
		t.Fatal(err)
	}
	m, err := watch.NewMirror(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	v, err := watch.NewValue(t.Context(), src, "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	sub := m.Subscribe()
	defer sub.Close()
	var none context.Context
	for what, call := range map[string]func(){
		"NewMirror":   func() { watch.NewMirror(none, src) },
		"NewValue":    func() { watch.NewValue(none, src, "k", 0) },
		"Chan":        func() { watch.Chan(none, sub) },
		"Mirror.Sync": func() { m.Sync(none) },
		"Mirror.Wait": func() { m.Wait(none, e.Revision) },
		"Value.Sync":  func() { v.Sync(none) },
		"Next":        func() { sub.Next(none) },
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
	if ev, err := sub.Next(t.Context()); err != nil || ev.Key != "k" {
		t.Errorf("the subscription gives %v, %v", ev, err)
	}
}
