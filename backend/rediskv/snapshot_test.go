package rediskv_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestSnapshotBesideWriters: a snapshot is of one moment, though its pages are not.
func TestSnapshotBesideWriters(t *testing.T) {
	for _, c := range []struct {
		name string
		o    rediskv.Options
	}{
		{"small pages", rediskv.Options{WatchBuffer: 2000}},
		{"large pages", rediskv.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := setup(t, c.o)
			ctx := t.Context()
			const n = 1500
			for i := range n {
				put(t, s, fmt.Sprintf("d/%04d", i), "0", backend.PutOptions{})
			}
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for g := range 3 {
				writers.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						key := fmt.Sprintf("d/%04d", (i*37+g*501)%(n+200))
						var err error
						if i%3 == 0 {
							err = s.Delete(ctx, key, backend.DeleteOptions{})
						} else {
							_, err = s.Put(ctx, key, fmt.Appendf(nil, "%d/%d", g, i), backend.PutOptions{})
						}
						if err != nil && !errors.Is(err, backend.ErrNotFound) {
							t.Errorf("writer: %v", err)
							return
						}
					}
				})
			}
			for range 5 {
				o := backend.WatchOptions{Snapshot: true, Prev: true}
				w, err := s.Watch(ctx, "d", o)
				if err != nil {
					t.Fatal(err)
				}
				v := &backendtest.Validator{Prefix: "d", Options: o, Caps: s.Capabilities()}
				v.Begin()
				state := map[string]backend.Revision{}
				for synced, after := false, 0; after < 300; {
					ev := next(t, w)
					if err := v.Observe(ev); err != nil {
						t.Fatal(err)
					}
					switch ev.Kind {
					case backend.Synced:
						synced = true
						for key, rev := range state {
							if rev > ev.Revision {
								t.Fatalf("%q at revision %d stands in the snapshot of %d", key, rev, ev.Revision)
							}
						}
					case backend.Deleted:
						if state[ev.Key] == 0 || ev.Prev == nil || ev.Prev.Revision != state[ev.Key] {
							t.Fatalf("%q deleted, known at %d, before %+v", ev.Key, state[ev.Key], ev.Prev)
						}
						delete(state, ev.Key)
					case backend.Created, backend.Existing:
						if state[ev.Key] != 0 {
							t.Fatalf("%v of %q, which is known at %d", ev.Kind, ev.Key, state[ev.Key])
						}
						state[ev.Key] = ev.Revision
					case backend.Updated:
						if state[ev.Key] == 0 || ev.Prev == nil || ev.Prev.Revision != state[ev.Key] {
							t.Fatalf("%q updated, known at %d, before %+v", ev.Key, state[ev.Key], ev.Prev)
						}
						state[ev.Key] = ev.Revision
					}
					if synced {
						after++
					}
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
			close(stop)
			writers.Wait()
		})
	}
}

// TestPagesAreBounded: large values come in several parts.
func TestPagesAreBounded(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	s := newStore(t, client, rediskv.Options{Root: testserver.UniqueName(t), WatchBuffer: 100_000})
	large := bytes.Repeat([]byte("x"), 10_000)
	for i := range 150 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("k%03d", i), large, backend.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, 90} { // by the lengths in the records; by a script
		before, n := sent.n.Load(), 0
		for e, err := range s.List(t.Context(), "", backend.ListOptions{Limit: limit}) {
			if err != nil || len(e.Value) != len(large) {
				t.Fatalf("%q: %d bytes, %v", e.Key, len(e.Value), err)
			}
			n++
		}
		if parts := sent.n.Load() - before; parts < int64(n)/20 {
			t.Errorf("%d values of 10 kB came in %d parts, with 100 kB wanted at most", n, parts)
		}
	}
}
