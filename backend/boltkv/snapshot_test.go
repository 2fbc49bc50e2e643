package boltkv_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R16: a list is one snapshot, whatever is written while it is read, and the
// writers do not wait for it.
func TestListIsSnapshot(t *testing.T) {
	s, _ := open(t, boltkv.Options{})
	const n = 3000
	for i := 0; i < n; i += 60 {
		var txn backend.Txn
		for j := i; j < i+60; j++ {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("k/%05d", 2*j), Value: []byte("old")})
		}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	seen, round := 0, 0
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("k/%05d", 2*seen); e.Key != want || string(e.Value) != "old" {
			t.Fatalf("entry %d: %s=%s, want %s=old", seen, e.Key, e.Value, want)
		}
		if seen%100 == 0 { // in front of the list and behind it: new, changed, deleted, deleted and made again
			for _, at := range []int{10, 2000, 4000, 5500} {
				at += round * 10
				put(t, s, fmt.Sprintf("k/%05d", at+1), "new", backend.PutOptions{})
				put(t, s, fmt.Sprintf("k/%05d", at+2), "new", backend.PutOptions{})
				put(t, s, fmt.Sprintf("k/%05d", at+2), "newer", backend.PutOptions{})
				for _, k := range []int{at + 4, at + 6} {
					if err := s.Delete(t.Context(), fmt.Sprintf("k/%05d", k), backend.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				put(t, s, fmt.Sprintf("k/%05d", at+6), "again", backend.PutOptions{})
			}
			round++
		}
		seen++
	}
	if seen != n {
		t.Errorf("listed %d of %d", seen, n)
	}
}

// R19: a snapshot watch under writes is the state of one revision and every
// change after it.
func TestSnapshotWatchUnderWrites(t *testing.T) {
	s, _ := open(t, boltkv.Options{})
	for i := range 700 {
		put(t, s, fmt.Sprintf("k/%04d", i), "0", backend.PutOptions{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("k/%04d", (i*37+g*101)%800)
				if i%5 == 4 {
					_ = s.Delete(t.Context(), key, backend.DeleteOptions{})
				} else if _, err := s.Put(t.Context(), key, []byte(fmt.Sprint(g, i)), backend.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var watches []backend.Watch
	for range 5 {
		w, err := s.Watch(t.Context(), "k", backend.WatchOptions{Snapshot: true, Prev: true})
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	states := make([]map[string]backend.Entry, len(watches))
	follow := func(i int, until func(backend.Event) bool) {
		for {
			ev, err := watches[i].Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			had, ok := states[i][ev.Key]
			switch ev.Kind {
			case backend.Existing:
				if ok {
					t.Fatalf("%s twice", ev.Key)
				}
				states[i][ev.Key] = ev.Entry
			case backend.Created, backend.Updated:
				if ok != (ev.Kind == backend.Updated) || ok && (ev.Prev == nil || ev.Prev.Revision != had.Revision || string(ev.Prev.Value) != string(had.Value)) {
					t.Fatalf("%s %+v (prev %+v) over %+v", ev.Kind, ev.Entry, ev.Prev, had)
				}
				states[i][ev.Key] = ev.Entry
			case backend.Deleted:
				if !ok {
					t.Fatalf("%s deleted, but was not there", ev.Key)
				}
				delete(states[i], ev.Key)
			}
			if until(ev) {
				return
			}
		}
	}
	for i := range watches {
		states[i] = map[string]backend.Entry{}
		follow(i, func(ev backend.Event) bool { return ev.Kind == backend.Synced })
	}
	cancel()
	wg.Wait()
	now := map[string]backend.Entry{}
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		now[e.Key] = e
	}
	for i, w := range watches {
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		follow(i, func(ev backend.Event) bool { return ev.Kind == backend.Progress })
		if len(states[i]) != len(now) {
			t.Errorf("watch %d has %d keys, the store %d", i, len(states[i]), len(now))
		}
		for k, e := range now {
			if got := states[i][k]; got.Revision != e.Revision || string(got.Value) != string(e.Value) {
				t.Errorf("watch %d has %+v, the store %+v", i, got, e)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
