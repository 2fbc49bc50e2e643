package zookeeperkv

import (
	"context"
	"errors"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// A key that goes while a watch is being established, between the reads of its directory and of its node, is seen when it
// comes back, be that while the watch still reads or when it is open.
func TestWatchEstablishedBesideDelete(t *testing.T) {
	for name, early := range map[string]bool{"comes back when the watch is open": false, "comes back at once": true} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, shared(t))
			root := testserver.UniqueName(t)
			s, other := open(t, p.addr(), root, Options{}), open(t, shared(t), root, Options{})
			put(t, other, "d/k", "old")
			node := s.root + "/d/k"
			gone, back := false, false
			p.hook(func(op int32, path string) {
				switch {
				case path != node:
				case op == opGetData && !gone:
					gone = true
					if err := other.Delete(t.Context(), "d/k", backend.DeleteOptions{}); err != nil {
						t.Error(err)
					}
				case op != opGetData && gone && early && !back:
					back = true
					put(t, other, "d/k", "new")
				}
			})
			w, err := s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			p.hook(nil)
			if !gone || back != early {
				t.Fatalf("the key has gone: %v, has come back: %v", gone, back)
			}
			if !early {
				put(t, other, "d/k", "new")
			}
			if err := w.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			e, err := w.Next(t.Context())
			if err != nil || e.Kind != backend.Created || e.Entry.Key != "d/k" || string(e.Value) != "new" {
				t.Errorf("got %v of %q with %q, %v; want it created", e.Kind, e.Entry.Key, e.Value, err)
			}
		})
	}
}

// R38: with a context that has ended nothing is asked, and that it has ended is told, however fast the server would answer.
func TestSyncWithAnEndedContext(t *testing.T) {
	p := newProxy(t, shared(t))
	root := testserver.UniqueName(t)
	lent := New(raw(t, p.addr()), Options{Root: root})
	t.Cleanup(func() { lent.Close() })
	for name, s := range map[string]*Store{"own connection": open(t, p.addr(), root, Options{}), "the caller's": lent} {
		t.Run(name, func(t *testing.T) {
			w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			settle(t, p)
			before := p.requests()
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			for range 100 {
				if err := w.Sync(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
					t.Errorf("Sync: %v", err)
				}
			}
			settle(t, p)
			if n := p.requests() - before; n != 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
}
