package zookeeperkv

import (
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
