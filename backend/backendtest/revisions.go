package backendtest

import (
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
)

func revisionCases() []testCase {
	return []testCase{
		{
			name: "R10/a put returns the entry without its value",
			run: func(e *env) {
				ent := e.put(e.s, "k", "v")
				if ent.Value != nil || !ent.Expires.IsZero() {
					e.Errorf("Put returned value %q, expiry %v", ent.Value, ent.Expires)
				}
				got := e.holds(e.s, "k", "v")
				if got.Revision != ent.Revision {
					e.Errorf("Get has revision %d, Put returned %d", got.Revision, ent.Revision)
				}
			},
		},
		{
			name: "R10/every read tells the same revision",
			run: func(e *env) {
				want := e.put(e.s, "k", "v").Revision
				many, err := e.s.GetMany(e.ctx, []string{"k"}, backend.GetOptions{})
				e.noErr(err, "GetMany")
				for how, ent := range map[string]backend.Entry{
					"Get":                  e.get(e.s, "k"),
					"GetMany":              many[0],
					"List":                 e.list(e.s, "", backend.ListOptions{})[0],
					"List of keys":         e.list(e.s, "", backend.ListOptions{KeysOnly: true})[0],
					"List of children":     e.list(e.s, "", backend.ListOptions{Children: true})[0],
					"Get by another store": e.get(e.open(), "k"),
				} {
					if ent.Revision != want {
						e.Errorf("%s: revision %d, want %d", how, ent.Revision, want)
					}
				}
			},
		},
		{
			name: "R10/Created is the revision of the write that made the key, or 0",
			run: func(e *env) {
				check := func(ent backend.Entry, want backend.Revision, what string) {
					e.Helper()
					if ent.Created != 0 && ent.Created != want {
						e.Errorf("%s: Created is %d, want %d or 0", what, ent.Created, want)
					}
				}
				first := e.put(e.s, "k", "1")
				check(first, first.Revision, "first Put")
				check(e.put(e.s, "k", "2"), first.Revision, "second Put")
				check(e.get(e.s, "k"), first.Revision, "Get")
				e.del(e.s, "k")
				again := e.put(e.s, "k", "3")
				check(again, again.Revision, "Put after Delete")
				check(e.get(e.s, "k"), again.Revision, "Get after recreation")
			},
		},
		{
			name: "R10/an identical value gets a new revision",
			why:  "on Consul an identical put changes nothing and wakes nobody",
			run: func(e *env) {
				last := e.put(e.s, "k", "same").Revision
				for range 5 {
					ent := e.put(e.s, "k", "same")
					if ent.Revision <= last {
						e.Fatalf("revision %d after %d", ent.Revision, last)
					}
					last = ent.Revision
					ent = e.putWith(e.s, "k", "same", backend.PutOptions{If: backend.AtRevision, Revision: last})
					if ent.Revision <= last {
						e.Fatalf("conditional put: revision %d after %d", ent.Revision, last)
					}
					last = ent.Revision
					res, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "k", Value: []byte("same")}}})
					e.noErr(err, "Commit")
					if res.Revision <= last {
						e.Fatalf("transaction: revision %d after %d", res.Revision, last)
					}
					last = res.Revision
				}
				if got := e.get(e.s, "k").Revision; got != last {
					e.Errorf("Get has revision %d, want %d", got, last)
				}
			},
		},
		{
			name: "R10/revisions grow in the order of writes, whatever the key and the store",
			why:  "a program that saw one write must be able to wait for it on another key",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				var last backend.Revision
				for i := range 40 {
					key := fmt.Sprintf("dir%d/k%d", i%3, i%7)
					rev := e.put(stores[i%2], key, "v").Revision
					if rev <= last {
						e.Fatalf("write %d, of %q, has revision %d after %d", i, key, rev, last)
					}
					last = rev
				}
			},
		},
		{
			name: "R10/a revision is not used again after delete and recreate",
			why:  "ZooKeeper's versions and Consul's lock indexes start over, and a stale write wins",
			run: func(e *env) {
				last := e.put(e.s, "k", "v").Revision
				for i := range 10 {
					if i%2 == 0 {
						e.del(e.s, "k")
					} else {
						_, err := e.s.DeletePrefix(e.ctx, "")
						e.noErr(err, "DeletePrefix")
					}
					rev := e.putWith(e.s, "k", "v", backend.PutOptions{If: backend.Absent}).Revision
					if rev <= last {
						e.Fatalf("revision %d after %d", rev, last)
					}
					last = rev
				}
			},
		},
		{
			name:  "R10/a revision is not used again after a restart",
			why:   "on bbolt a predecessor's counter restarts at 0, so a stale compare-and-set wins",
			needs: reopen,
			run: func(e *env) {
				old := e.put(e.s, "k", "v").Revision
				e.put(e.s, "gone", "v")
				gone := e.get(e.s, "gone").Revision
				e.del(e.s, "gone")
				e.reopen()
				if got := e.holds(e.s, "k", "v").Revision; got != old {
					e.Errorf("the restart changed the revision from %d to %d", old, got)
				}
				for _, k := range []string{"gone", "k", "new"} {
					rev := e.put(e.s, k, "v").Revision
					if rev <= gone {
						e.Errorf("Put(%q) after the restart has revision %d, before it there was %d", k, rev, gone)
					}
				}
				_, err := e.s.Put(e.ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: old})
				e.wantErr(err, "Put at a revision from before the restart", backend.ErrConflict)
			},
		},
	}
}

// reopen stops what holds the data, all stores of the case with it, and opens
// e.s again.
func (e *env) reopen() {
	e.Helper()
	if e.h.Reopen == nil {
		e.h.Restart(e.T)
	} else {
		e.noErr(e.s.Close(), "Close")
		e.h.Reopen(e.T)
		e.s = e.openAt(e.root)
	}
	var err error
	for end := time.Now().Add(e.patience); time.Now().Before(end); {
		if err = e.s.Ping(e.ctx); err == nil {
			return
		}
	}
	e.Fatalf("the store does not answer after the restart: %v", err)
}
