package backendtest

import (
	"time"

	"github.com/polykv/kv/backend"
)

// expiryCases are about keys whose TTL has ended.
func expiryCases() []testCase {
	return []testCase{
		{
			name:  "R28/an expired key is absent to every call",
			timed: true,
			run: func(e *env) {
				keys := []string{"d/get", "d/absent", "d/present", "d/revision", "d/delete", "d/deleteat", "d/check", "d/create", "d/dir", "d/dir/child", "d/kept"}
				revs := map[string]backend.Revision{}
				var sp span
				for _, k := range keys {
					o := backend.PutOptions{TTL: e.ttl()}
					if k == "d/kept" || k == "d/dir/child" {
						o.TTL = 0
					}
					sp = e.timed(func() error {
						ent, err := e.s.Put(e.ctx, k, []byte("v"), o)
						revs[k] = ent.Revision
						return err
					})
				}
				e.until(sp.done.Add(e.ttl() + e.caps.TTLSlack)) // no call may look before: some stores reap when they are asked
				e.absent(e.s, "d/get")
				if _, err := e.s.Put(e.ctx, "d/absent", []byte("new"), backend.PutOptions{If: backend.Absent}); err != nil {
					e.Errorf("Put if absent on an expired key: %v", err)
				}
				_, err := e.s.Put(e.ctx, "d/present", nil, backend.PutOptions{If: backend.Present})
				e.wantErr(err, "Put if present", backend.ErrNotFound)
				_, err = e.s.Put(e.ctx, "d/revision", nil, backend.PutOptions{If: backend.AtRevision, Revision: revs["d/revision"]})
				e.wantErr(err, "Put at the expired revision", backend.ErrConflict)
				e.wantErr(e.s.Delete(e.ctx, "d/delete", backend.DeleteOptions{}), "Delete", backend.ErrNotFound)
				err = e.s.Delete(e.ctx, "d/deleteat", backend.DeleteOptions{If: backend.AtRevision, Revision: revs["d/deleteat"]})
				e.wantErr(err, "Delete at the expired revision", backend.ErrConflict)
				for _, c := range []struct {
					check backend.Check
					want  error
				}{
					{backend.Check{If: backend.Present, Key: "d/check"}, backend.ErrNotFound},
					{backend.Check{If: backend.AtRevision, Key: "d/check", Revision: revs["d/check"]}, backend.ErrConflict},
				} {
					_, err = e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{c.check}, Writes: []backend.Write{{Key: "d/no"}}})
					e.wantErr(err, "Commit with a check of an expired key", c.want)
				}
				_, err = e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Absent, Key: "d/create"}, {If: backend.Absent, Key: "d/check"}},
					Writes: []backend.Write{{Key: "d/create", Value: []byte("new")}},
				})
				e.noErr(err, "Commit that creates an expired key")
				many, err := e.s.GetMany(e.ctx, []string{"d/get", "d/kept", "d/check"}, backend.GetOptions{})
				e.noErr(err, "GetMany")
				if many[0].Revision != 0 || many[1].Revision == 0 || many[2].Revision != 0 {
					e.Errorf("GetMany returns %+v", many)
				}
				e.lists(e.s, "d", backend.ListOptions{}, "d/absent", "d/create", "d/dir/child", "d/kept")
				e.lists(e.s, "d", backend.ListOptions{Children: true}, "d/absent", "d/create", "d/dir/", "d/kept")
				if ent := e.holds(e.s, "d/absent", "new"); ent.Revision <= revs["d/absent"] || !ent.Expires.IsZero() {
					e.Errorf("the recreated key is %+v, the expired one was at %d", ent, revs["d/absent"])
				}
			},
		},
		{
			name:  "R28/DeletePrefix does not count expired keys",
			timed: true,
			run: func(e *env) {
				sp := e.timed(func() error {
					_, err := e.s.Put(e.ctx, "d/short", []byte("v"), backend.PutOptions{TTL: e.ttl()})
					return err
				})
				e.put(e.s, "d/kept", "v")
				e.until(sp.done.Add(e.ttl() + e.caps.TTLSlack))
				n, err := e.s.DeletePrefix(e.ctx, "d")
				if err != nil || n != 1 {
					e.Errorf("DeletePrefix = %d, %v, want 1", n, err)
				}
			},
		},
		{
			name:  "R24,R28/an expired key makes one Deleted, in time, and its watchers see no more of it",
			why:   "Redis fires expired events lazily: none in 20 s with 200,000 keys",
			timed: true,
			run: func(e *env) {
				ttl := e.renewable() // so that all watches see the key before it goes, where changes may be merged
				var watches []*stream
				for _, o := range []backend.WatchOptions{{}, {Prev: true}, {Snapshot: true, Prev: true}} {
					watches = append(watches, e.watch(e.open(), "d", o))
				}
				watches = append(watches, e.watch(e.open(), "d/k", backend.WatchOptions{Key: true, Prev: true}))
				var ent backend.Entry
				sp := e.timed(func() (err error) {
					ent, err = e.s.Put(e.ctx, "d/k", []byte("v"), backend.PutOptions{TTL: ttl})
					return err
				})
				for _, st := range watches {
					if st.v.Options.Snapshot {
						st.want(backend.Synced, "", "")
					}
					ev := st.want(backend.Created, "d/k", "v")
					if d := ev.Expires.Sub(ent.Expires).Abs(); d > granularity {
						e.Errorf("the event expires %v apart from what Put said", d)
					}
				}
				for _, st := range watches {
					ev := st.want(backend.Deleted, "d/k", "")
					if early := time.Until(sp.sent.Add(ttl)); early > granularity {
						e.Errorf("the delete comes %v early", early)
					}
					if late := time.Since(sp.done.Add(ttl + e.caps.TTLSlack)); late > e.lag(sp.sent) {
						e.Errorf("the delete comes %v late", late)
					}
					if st.v.Options.Prev && ev.Prev == nil {
						e.Errorf("no previous entry of a key that expired")
					}
				}
				e.absent(e.s, "d/k") // what a watch tells is true
				e.putWith(e.s, "d/k", "again", backend.PutOptions{If: backend.Absent})
				for _, st := range watches {
					st.want(backend.Created, "d/k", "again")
					st.quiet()
				}
			},
		},
		{
			name:  "R24,R28/a key that is recreated after it expired is Deleted, then Created",
			why:   "the put finds a key that nobody reaped yet, and must not make an update of it",
			timed: true,
			run: func(e *env) {
				st := e.watch(e.open(), "", backend.WatchOptions{})
				for _, k := range []string{"a", "b", "c"} {
					e.putWith(e.s, k, "old", backend.PutOptions{TTL: 5 * e.ttl()}) // none expires before the last is there
					st.want(backend.Created, k, "old")
				}
				e.eventually("the key expires", func() bool { return e.missing(e.s, "c") })
				e.put(e.s, "a", "new")
				e.putWith(e.s, "b", "new", backend.PutOptions{If: backend.Absent})
				_, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "c", Value: []byte("new")}}})
				e.noErr(err, "Commit")
				got := map[string][]backend.Kind{}
				for range 6 {
					ev := st.next()
					got[ev.Key] = append(got[ev.Key], ev.Kind)
				}
				for k, kinds := range got {
					if len(kinds) != 2 || kinds[0] != backend.Deleted || kinds[1] != backend.Created {
						e.Errorf("%q: %v, want deleted, created", k, kinds)
					}
				}
				st.quiet()
			},
		},
		{
			name:  "R28/a thousand keys expire in time, and each makes one Deleted",
			timed: true,
			run: func(e *env) {
				st := e.watch(e.open(), "d", backend.WatchOptions{})
				keys := numbered("d/k", 512)
				var last span
				ttl := e.ttl() + 4*time.Second // to be seen before it ends, where changes may be merged, on a busy machine too
				for i := 0; i < len(keys); i += backend.MaxTxnOps {
					var t backend.Txn
					for _, k := range keys[i:min(i+backend.MaxTxnOps, len(keys))] {
						t.Writes = append(t.Writes, backend.Write{Key: k, TTL: ttl})
					}
					last = e.timed(func() error {
						_, err := e.s.Commit(e.ctx, t)
						return err
					})
				}
				e.lives("the last key", last, ttl, func() bool { return len(e.list(e.s, "d", backend.ListOptions{KeysOnly: true})) == 0 })
				var created, deleted int
				for created+deleted < 2*len(keys) {
					if st.next().Kind == backend.Created {
						created++
					} else {
						deleted++
					}
				}
				if created != len(keys) || deleted != len(keys) {
					e.Errorf("%d created and %d deleted, want %d each", created, deleted, len(keys))
				}
				st.quiet()
			},
		},
		{
			name:  "R28/a TTL runs on while no store is open",
			timed: true,
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				sp := e.timed(func() error {
					_, err := s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: e.ttl()})
					return err
				})
				e.noErr(s.Close(), "Close")
				e.lives("k", sp, e.ttl(), func() bool { return e.missing(e.s, "k") })
			},
		},
		{
			name:  "R28/a TTL is not prolonged by a restart, nor cut short",
			why:   "etcd refreshes leases on restart: a 40 s key lived for 60 s",
			needs: reopen,
			run: func(e *env) {
				ttl := 3 * time.Second
				sp := e.timed(func() error {
					_, err := e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: ttl})
					return err
				})
				before := e.get(e.s, "k").Expires
				e.reopen()
				if ent, err := e.s.Get(e.ctx, "k", backend.GetOptions{}); err == nil && ent.Expires.Sub(before).Abs() > granularity {
					e.Errorf("the restart moved the expiry from %v to %v", before, ent.Expires)
				}
				latest := sp.done.Add(ttl + e.caps.TTLSlack)
				if late := time.Since(latest); late > 0 {
					latest = time.Now() // the restart took longer than the TTL: gone at once
				}
				ctx, cancel := e.patient(time.Until(latest.Add(lag + time.Second)))
				defer cancel()
				e.eventually("the key expires", func() bool {
					_, err := e.s.Get(ctx, "k", backend.GetOptions{})
					if err == nil {
						return false
					}
					e.wantErr(err, "Get, TTLSlack after the TTL ended", backend.ErrNotFound)
					if early := time.Until(sp.sent.Add(ttl)); early > granularity {
						e.Errorf("the key is gone %v early", early)
					}
					return true
				})
			},
		},
	}
}
