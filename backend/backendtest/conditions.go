package backendtest

import (
	"bytes"
	"fmt"

	"github.com/polykv/kv/backend"
)

// state is what a key went through before a conditional write.
type state struct {
	name    string
	prepare func(e *env, key string) (current, stale backend.Revision) // 0: there is none
}

func states() []state {
	return []state{
		{"a key that never was", func(e *env, key string) (backend.Revision, backend.Revision) {
			return 0, e.put(e.s, "another", "v").Revision
		}},
		{"a new key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, "another", "v").Revision
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"an updated key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key, "older").Revision
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"an identically updated key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key, "old").Revision
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"a deleted key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key, "old").Revision
			e.del(e.s, key)
			return 0, stale
		}},
		{"a recreated key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key, "old").Revision
			e.del(e.s, key)
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"a key recreated with as many updates", func(e *env, key string) (backend.Revision, backend.Revision) {
			e.put(e.s, key, "a")
			e.put(e.s, key, "b")
			stale := e.put(e.s, key, "old").Revision
			e.del(e.s, key)
			e.put(e.s, key, "a")
			e.put(e.s, key, "b")
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"a key recreated by transactions", func(e *env, key string) (backend.Revision, backend.Revision) {
			commit := func(w backend.Write) backend.Revision {
				res, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{w}})
				e.noErr(err, "Commit")
				return res.Revision
			}
			stale := commit(backend.Write{Key: key, Value: []byte("old")})
			commit(backend.Write{Key: key, Delete: true})
			return commit(backend.Write{Key: key, Value: []byte("old")}), stale
		}},
		{"a key with children", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key+"/child", "v").Revision
			return e.put(e.s, key, "old").Revision, stale
		}},
		{"a directory", func(e *env, key string) (backend.Revision, backend.Revision) {
			return 0, e.put(e.s, key+"/child", "v").Revision
		}},
		{"a directory that was a key", func(e *env, key string) (backend.Revision, backend.Revision) {
			stale := e.put(e.s, key, "v").Revision
			e.put(e.s, key+"/child", "v")
			e.del(e.s, key)
			return 0, stale
		}},
		{"a key recreated on its children", func(e *env, key string) (backend.Revision, backend.Revision) {
			// ZooKeeper keeps the node for the children's sake, so nothing
			// but the revision tells the new key from the old one.
			stale := e.put(e.s, key, "old").Revision
			e.put(e.s, key+"/child", "v")
			e.del(e.s, key)
			return e.put(e.s, key, "old").Revision, stale
		}},
	}
}

// terms are a condition, and what it comes to for a key that is there or not.
type terms struct {
	name            string
	cond            backend.Condition
	current         bool // at the current revision (if there is none: at the stale one)
	present, absent error
}

func putTerms() []terms {
	return []terms{
		{"always", backend.Always, false, nil, nil},
		{"if absent", backend.Absent, false, backend.ErrExists, nil},
		{"if present", backend.Present, false, nil, backend.ErrNotFound},
		{"at the current revision", backend.AtRevision, true, nil, backend.ErrConflict},
		{"at a stale revision", backend.AtRevision, false, backend.ErrConflict, backend.ErrConflict},
	}
}

func deleteTerms() []terms {
	return []terms{
		{"always", backend.Always, false, nil, backend.ErrNotFound},
		{"if present", backend.Present, false, nil, backend.ErrNotFound},
		{"at the current revision", backend.AtRevision, true, nil, backend.ErrConflict},
		{"at a stale revision", backend.AtRevision, false, backend.ErrConflict, backend.ErrConflict},
	}
}

// matrix runs write against every state under every term, and demands the
// outcome, and that a refused write changed nothing.
func (e *env) matrix(all []terms, write func(key string, cond backend.Condition, rev backend.Revision) error, after func(key string)) {
	for i, st := range states() {
		for j, tm := range all {
			key := fmt.Sprintf("m%d-%d", i, j)
			what := fmt.Sprintf("%s, %s", tm.name, st.name)
			current, stale := st.prepare(e, key)
			rev, want := stale, tm.absent
			if current != 0 {
				want = tm.present
				if tm.current {
					rev = current
				}
			}
			if tm.cond != backend.AtRevision {
				rev = 0
			}
			err := write(key, tm.cond, rev)
			if want != nil {
				e.wantErr(err, what, want)
				if current == 0 {
					e.absent(e.s, key)
				} else if got := e.holds(e.s, key, "old").Revision; got != current {
					e.Errorf("%s: refused, but the revision went from %d to %d", what, current, got)
				}
				continue
			}
			e.noErr(err, "%s", what)
			after(key)
		}
	}
}

func conditionCases() []testCase {
	return []testCase{
		{
			name: "R11/put under every condition, whatever the key went through",
			why:  "a put at a revision succeeds only if that is the current one: not on a key that was recreated",
			run: func(e *env) {
				e.matrix(putTerms(), func(key string, cond backend.Condition, rev backend.Revision) error {
					_, err := e.s.Put(e.ctx, key, []byte("new"), backend.PutOptions{If: cond, Revision: rev})
					return err
				}, func(key string) { e.holds(e.s, key, "new") })
			},
		},
		{
			name: "R11/put of the value that is there, under every condition",
			why:  "on Consul an identical compare-and-set is a no-op that answers yes, at any index",
			run: func(e *env) {
				e.matrix(putTerms(), func(key string, cond backend.Condition, rev backend.Revision) error {
					_, err := e.s.Put(e.ctx, key, []byte("old"), backend.PutOptions{If: cond, Revision: rev})
					return err
				}, func(key string) { e.holds(e.s, key, "old") })
			},
		},
		{
			name: "R11/delete under every condition, whatever the key went through",
			why:  "a conditional delete of a missing key says yes on Consul, and \"not found\" in a predecessor on etcd",
			run: func(e *env) {
				e.matrix(deleteTerms(), func(key string, cond backend.Condition, rev backend.Revision) error {
					return e.s.Delete(e.ctx, key, backend.DeleteOptions{If: cond, Revision: rev})
				}, func(key string) { e.absent(e.s, key) })
			},
		},
		{
			name: "R11/a put in a transaction under every condition, whatever the key went through",
			run: func(e *env) {
				e.matrix(putTerms(), func(key string, cond backend.Condition, rev backend.Revision) error {
					t := backend.Txn{Writes: []backend.Write{{Key: key, Value: []byte("new")}}}
					if cond != backend.Always {
						t.Checks = []backend.Check{{If: cond, Key: key, Revision: rev}}
					}
					_, err := e.s.Commit(e.ctx, t)
					return err
				}, func(key string) { e.holds(e.s, key, "new") })
			},
		},
		{
			name: "R11/a revision that the store has not reached is ErrConflict",
			run: func(e *env) {
				rev := e.put(e.s, "k", "v").Revision
				for _, r := range []backend.Revision{rev + 1, rev + 1<<20, rev - 1, 1, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
					if r == 0 || r == rev {
						continue
					}
					_, err := e.s.Put(e.ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: r})
					e.wantErr(err, fmt.Sprintf("Put at revision %d, the current one is %d", r, rev), backend.ErrConflict)
					err = e.s.Delete(e.ctx, "k", backend.DeleteOptions{If: backend.AtRevision, Revision: r})
					e.wantErr(err, fmt.Sprintf("Delete at revision %d, the current one is %d", r, rev), backend.ErrConflict)
				}
				e.holds(e.s, "k", "v")
			},
		},
		{
			name:  "R11/a write by another program is detected",
			why:   "where it changes the store's own version or, on Redis, the bytes",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				for i, change := range []func(key string){
					func(key string) { e.noErr(f.Put(e.ctx, key, []byte("theirs")), "foreign Put") },
					func(key string) { e.noErr(f.Delete(e.ctx, key), "foreign Delete") },
					func(key string) {
						e.noErr(f.Delete(e.ctx, key), "foreign Delete")
						e.noErr(f.Put(e.ctx, key, []byte("theirs")), "foreign Put")
					},
				} {
					key := fmt.Sprintf("k%d", i)
					rev := e.put(e.s, key, "ours").Revision
					change(key)
					_, err := e.s.Put(e.ctx, key, []byte("ours"), backend.PutOptions{If: backend.AtRevision, Revision: rev})
					e.wantErr(err, fmt.Sprintf("Put after foreign change %d", i), backend.ErrConflict)
					err = e.s.Delete(e.ctx, key, backend.DeleteOptions{If: backend.AtRevision, Revision: rev})
					e.wantErr(err, fmt.Sprintf("Delete after foreign change %d", i), backend.ErrConflict)
					_, err = e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{{If: backend.AtRevision, Key: key, Revision: rev}}})
					e.wantErr(err, fmt.Sprintf("check after foreign change %d", i), backend.ErrConflict)
				}
				e.put(e.s, "created", "v")
				e.del(e.s, "created")
				e.noErr(f.Put(e.ctx, "created", []byte("theirs")), "foreign Put")
				_, err := e.s.Put(e.ctx, "created", nil, backend.PutOptions{If: backend.Absent})
				e.wantErr(err, "Put if absent over a foreign key", backend.ErrExists)
				got := e.holds(e.s, "created", "theirs")
				e.putWith(e.s, "created", "ours", backend.PutOptions{If: backend.AtRevision, Revision: got.Revision})
				if v, _, err := f.Get(e.ctx, "created"); err != nil || !bytes.Equal(v, []byte("ours")) {
					e.Errorf("foreign Get = %q, %v", v, err)
				}
			},
		},
		{
			name:  "R11,R42/ForeignCAS: a write by another program that leaves the bytes as they were",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				rev := e.put(e.s, "k", "same").Revision
				e.noErr(f.Put(e.ctx, "k", []byte("same")), "foreign Put")
				_, err := e.s.Put(e.ctx, "k", []byte("new"), backend.PutOptions{If: backend.AtRevision, Revision: rev})
				if e.caps.ForeignCAS {
					e.wantErr(err, "Put after a foreign put of the same bytes", backend.ErrConflict)
				} else if err != nil {
					e.wantErr(err, "Put after a foreign put of the same bytes", backend.ErrConflict)
					e.Logf("ForeignCAS is unset, and this was detected all the same")
				}
				rev = e.put(e.s, "k", "same").Revision
				e.noErr(f.Delete(e.ctx, "k"), "foreign Delete")
				e.noErr(f.Put(e.ctx, "k", []byte("same")), "foreign Put")
				_, err = e.s.Put(e.ctx, "k", []byte("new"), backend.PutOptions{If: backend.AtRevision, Revision: rev})
				if e.caps.ForeignCAS {
					e.wantErr(err, "Put after a foreign delete and put of the same bytes", backend.ErrConflict)
				} else if err != nil {
					e.wantErr(err, "Put after a foreign delete and put of the same bytes", backend.ErrConflict)
				}
			},
		},
	}
}

func (e *env) foreign() Foreign { return e.h.Foreign(e.T, e.root) }
