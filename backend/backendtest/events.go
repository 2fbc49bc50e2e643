package backendtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/polykv/kv/backend"
)

// eventCases are about what a stream tells.
func eventCases() []testCase {
	key := backend.WatchOptions{Key: true}
	return []testCase{
		{
			name: "R18/what happens to a key, step by step",
			why:  "predecessors tell neither deletes (Consul) nor changes of a value (ZooKeeper)",
			run: func(e *env) {
				for _, o := range []backend.WatchOptions{{}, {Prev: true}, {Snapshot: true}, {Snapshot: true, Prev: true}} {
					st := e.watch(e.s, "d", o)
					k := "d/k"
					if o.Snapshot {
						st.want(backend.Synced, "", "")
					}
					var before *backend.Entry
					step := func(kind backend.Kind, value string, rev backend.Revision) {
						e.Helper()
						ev := st.want(kind, k, value)
						if rev != 0 && ev.Revision != rev {
							e.Errorf("%v: the event has revision %d, the write %d", kind, ev.Revision, rev)
						}
						if ev.Expires != (time.Time{}) {
							e.Errorf("%v: expires %v", kind, ev.Expires)
						}
						switch {
						case !o.Prev || kind == backend.Created:
							if ev.Prev != nil {
								e.Errorf("%v (%+v): unexpected previous entry %+v", kind, o, *ev.Prev)
							}
						case ev.Prev == nil:
							e.Errorf("%v: no previous entry", kind)
						case !sameEntry(*ev.Prev, *before):
							e.Errorf("%v: previous entry %+v, want %+v", kind, *ev.Prev, *before)
						}
						if kind != backend.Deleted {
							before = &backend.Entry{Key: k, Value: []byte(value), Revision: ev.Revision}
						}
					}
					step(backend.Created, "1", e.put(e.s, k, "1").Revision)
					step(backend.Updated, "2", e.put(e.s, k, "2").Revision)
					step(backend.Updated, "2", e.put(e.s, k, "2").Revision) // identical
					step(backend.Updated, "", e.put(e.s, k, "").Revision)
					e.del(e.s, k)
					step(backend.Deleted, "", 0)
					step(backend.Created, "", e.put(e.s, k, "").Revision)
					step(backend.Updated, "4", e.putWith(e.s, k, "4", backend.PutOptions{If: backend.Present}).Revision)
					res, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: k, Value: []byte("5")}}})
					e.noErr(err, "Commit")
					step(backend.Updated, "5", res.Revision)
					_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: k, Delete: true}}})
					e.noErr(err, "Commit")
					step(backend.Deleted, "", 0)
					step(backend.Created, "6", e.put(e.s, k, "6").Revision)
					_, err = e.s.DeletePrefix(e.ctx, "d")
					e.noErr(err, "DeletePrefix")
					step(backend.Deleted, "", 0)
					st.quiet()
					e.noErr(st.w.Close(), "Close")
				}
			},
		},
		{
			name: "R18/delete and recreate at once is Deleted, then Created",
			why:  "a watcher that holds something for the key must know that it is another one; nothing may be read as an update",
			run: func(e *env) {
				other := e.open()
				st := e.watch(other, "", backend.WatchOptions{})
				one := e.watch(other, "k", key)
				e.put(e.s, "k", "0")
				st.want(backend.Created, "k", "0")
				one.want(backend.Created, "k", "0")
				for i := 1; i <= 30; i++ {
					v := fmt.Sprint(i)
					if i%3 == 0 {
						v = "same"
					}
					e.del(e.s, "k")
					e.put(e.s, "k", v)
					for _, w := range []*stream{st, one} {
						w.want(backend.Deleted, "k", "")
						w.want(backend.Created, "k", v)
					}
				}
			},
		},
		{
			name: "R18/what did not happen makes no event",
			run: func(e *env) {
				stale := e.put(e.s, "k", "v").Revision
				ent := e.put(e.s, "k", "v2")
				ent.Value = []byte("v2")
				st := e.watch(e.s, "", backend.WatchOptions{}, ent)
				_, err := e.s.Put(e.ctx, "k", []byte("no"), backend.PutOptions{If: backend.Absent})
				e.wantErr(err, "Put", backend.ErrExists)
				_, err = e.s.Put(e.ctx, "none", []byte("no"), backend.PutOptions{If: backend.Present})
				e.wantErr(err, "Put", backend.ErrNotFound)
				_, err = e.s.Put(e.ctx, "k", []byte("no"), backend.PutOptions{If: backend.AtRevision, Revision: stale})
				e.wantErr(err, "Put", backend.ErrConflict)
				e.wantErr(e.s.Delete(e.ctx, "none", backend.DeleteOptions{}), "Delete", backend.ErrNotFound)
				e.wantErr(e.s.Delete(e.ctx, "k", backend.DeleteOptions{If: backend.AtRevision, Revision: stale}), "Delete", backend.ErrConflict)
				_, err = e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Absent, Key: "k"}},
					Writes: []backend.Write{{Key: "a", Value: []byte("no")}, {Key: "k", Delete: true}},
				})
				e.wantErr(err, "Commit", backend.ErrExists)
				_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "none", Delete: true}}})
				e.noErr(err, "Commit")
				_, err = e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{{If: backend.Present, Key: "k"}}})
				e.noErr(err, "Commit")
				n, err := e.s.DeletePrefix(e.ctx, "none")
				if n != 0 || err != nil {
					e.Errorf("DeletePrefix = %d, %v", n, err)
				}
				st.quiet()
			},
		},
		{
			name: "R18/parents that a store needs in between make no events",
			run: func(e *env) {
				st := e.watch(e.s, "", backend.WatchOptions{})
				e.put(e.s, "a/b/c", "1")
				st.want(backend.Created, "a/b/c", "1")
				e.put(e.s, "a", "")
				st.want(backend.Created, "a", "")
				e.del(e.s, "a")
				st.want(backend.Deleted, "a", "")
				e.del(e.s, "a/b/c")
				st.want(backend.Deleted, "a/b/c", "")
				st.quiet()
			},
		},
		{
			name: "R18/a transaction makes one event for each write, and DeletePrefix for each key",
			run: func(e *env) {
				st := e.watch(e.s, "d", backend.WatchOptions{})
				keys := numbered("d/k", 150)
				revs := e.fill(e.s, keys, func(k string) string { return k })
				e.put(e.s, "outside", "v")
				seen := map[string]bool{}
				for range keys {
					ev := st.next()
					if ev.Kind != backend.Created || ev.Revision != revs[ev.Key] || string(ev.Value) != ev.Key {
						e.Fatalf("got %v of %q at %d, want Created at %d", ev.Kind, ev.Key, ev.Revision, revs[ev.Key])
					}
					seen[ev.Key] = true
				}
				st.quiet()
				n, err := e.s.DeletePrefix(e.ctx, "d")
				if err != nil || n != 150 {
					e.Fatalf("DeletePrefix = %d, %v", n, err)
				}
				var rev backend.Revision
				for range keys {
					ev := st.next()
					if ev.Kind != backend.Deleted || !seen[ev.Key] {
						e.Fatalf("got %v of %q, want one Deleted for each key", ev.Kind, ev.Key)
					}
					delete(seen, ev.Key)
					if e.caps.AtomicDeletePrefix && e.caps.Lossless {
						if rev != 0 && ev.Revision != rev {
							e.Errorf("an atomic DeletePrefix has revisions %d and %d", rev, ev.Revision)
						}
						rev = ev.Revision
					}
				}
				st.quiet()
			},
		},
		{
			name: "R8/an event is the reader's",
			run: func(e *env) {
				a := e.watch(e.s, "", backend.WatchOptions{Prev: true})
				b := e.watch(e.s, "", backend.WatchOptions{Prev: true})
				smash := func(ev backend.Event) {
					for i := range ev.Value {
						ev.Value[i] = 'X'
					}
					if ev.Prev != nil {
						for i := range ev.Prev.Value {
							ev.Prev.Value[i] = 'X'
						}
					}
				}
				e.put(e.s, "k", "value")
				smash(a.want(backend.Created, "k", "value"))
				smash(b.want(backend.Created, "k", "value"))
				e.holds(e.s, "k", "value")
				e.put(e.s, "k", "other")
				smash(a.want(backend.Updated, "k", "other")) // its Prev was checked by the validator
				smash(b.want(backend.Updated, "k", "other"))
				e.holds(e.s, "k", "other")
			},
		},
		{
			name: "R19/a snapshot is what is there, then Synced, then changes",
			run: func(e *env) {
				keys := []string{"d/a", "d/a/b", "d/c-d", "d/😀"}
				revs := e.fill(e.s, append([]string{"d", "dd", "e/x"}, keys...), func(k string) string { return "value of " + k })
				st := e.watch(e.s, "d", backend.WatchOptions{Snapshot: true, Prev: true})
				var got []string
				for range keys {
					ev := st.next()
					if ev.Kind != backend.Existing || string(ev.Value) != "value of "+ev.Key || ev.Revision != revs[ev.Key] {
						e.Fatalf("got %v of %q at %d with %q", ev.Kind, ev.Key, ev.Revision, ev.Value)
					}
					got = append(got, ev.Key)
				}
				if slices.Sort(got); !slices.Equal(got, keys) {
					e.Errorf("existing: %q, want %q", got, keys)
				}
				st.want(backend.Synced, "", "")
				st.quiet()
				e.put(e.s, "d/a", "new")
				if ev := st.want(backend.Updated, "d/a", "new"); ev.Prev == nil {
					e.Errorf("no previous entry for a key of the snapshot")
				}
				e.del(e.s, "d/c-d")
				st.want(backend.Deleted, "d/c-d", "")
			},
		},
		{
			name: "R19/a snapshot of nothing is Synced",
			why:  "a predecessor's WatchTree fails on an empty tree",
			run: func(e *env) {
				for prefix, o := range map[string]backend.WatchOptions{
					"": {Snapshot: true}, "no/such": {Snapshot: true}, "k": {Snapshot: true, Key: true},
				} {
					st := e.watch(e.s, prefix, o)
					st.want(backend.Synced, "", "")
					st.quiet()
				}
				e.put(e.s, "k/deeper", "v") // no value at k itself
				st := e.watch(e.s, "k", backend.WatchOptions{Snapshot: true, Key: true})
				st.want(backend.Synced, "", "")
				e.put(e.s, "k", "v")
				st.want(backend.Created, "k", "v")
				st = e.watch(e.s, "k", backend.WatchOptions{Snapshot: true, Key: true})
				st.want(backend.Existing, "k", "v")
				st.want(backend.Synced, "", "")
			},
		},
		{
			name: "R19/a snapshot of many pages",
			run: func(e *env) {
				keys := numbered("d/k", 1500)
				e.fill(e.s, keys, func(k string) string { return k })
				st := e.watch(e.s, "d", backend.WatchOptions{Snapshot: true})
				for st.next().Kind != backend.Synced {
				}
				if n := len(st.v.Now()); n != len(keys) {
					e.Errorf("the snapshot has %d of %d keys", n, len(keys))
				}
				st.quiet()
			},
		},
		{
			name: "R19/a watch without a snapshot tells only what is new",
			run: func(e *env) {
				ent := e.put(e.s, "k", "old")
				ent.Value = []byte("old")
				st := e.watch(e.s, "", backend.WatchOptions{}, ent)
				st.quiet()
				e.put(e.s, "k", "new")
				st.want(backend.Updated, "k", "new")
			},
		},
		{
			name: "R18/Health tells of a live watch that it is connected",
			run: func(e *env) {
				begin := time.Now()
				st := e.watch(e.s, "", backend.WatchOptions{})
				e.put(e.s, "k", "v")
				st.want(backend.Created, "k", "v")
				h := st.w.Health()
				if h.LastContact.Before(begin) || h.LastContact.After(time.Now()) {
					e.Errorf("last contact %v, want between %v and now", h.LastContact, begin)
				}
				if !h.DisconnectedSince.IsZero() {
					e.Errorf("disconnected since %v", h.DisconnectedSince)
				}
			},
		},
	}
}
