package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
)

func txnCases() []testCase {
	put := func(key, value string) backend.Write { return backend.Write{Key: key, Value: []byte(value)} }
	del := func(key string) backend.Write { return backend.Write{Key: key, Delete: true} }
	return []testCase{
		{
			name: "R27/all writes are applied, share one revision, and come back as entries",
			run: func(e *env) {
				before := e.put(e.s, "gone", "v").Revision
				e.put(e.s, "old", "v")
				res, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{put("new", "1"), del("gone"), put("old", "2"), del("absent")}})
				e.noErr(err, "Commit")
				if res.Revision <= before {
					e.Errorf("revision %d, after %d", res.Revision, before)
				}
				if len(res.Entries) != 4 {
					e.Fatalf("%d entries for 4 writes", len(res.Entries))
				}
				for i, want := range []struct {
					key string
					rev backend.Revision
				}{{"new", res.Revision}, {"gone", 0}, {"old", res.Revision}, {"absent", 0}} {
					if got := res.Entries[i]; got.Key != want.key || got.Revision != want.rev || got.Value != nil {
						e.Errorf("entry %d is %+v, want key %q at revision %d without value", i, got, want.key, want.rev)
					}
				}
				for k, v := range map[string]string{"new": "1", "old": "2"} {
					if got := e.holds(e.s, k, v).Revision; got != res.Revision {
						e.Errorf("%q has revision %d, the transaction returned %d", k, got, res.Revision)
					}
				}
				e.lists(e.s, "", backend.ListOptions{}, "new", "old")
			},
		},
		{
			name: "R27/a failed check names itself and its reason, and nothing is written",
			run: func(e *env) {
				rev := e.put(e.s, "here", "v").Revision
				stale := rev
				rev = e.put(e.s, "here", "v").Revision
				e.put(e.s, "other", "v")
				holding := []backend.Check{{If: backend.Present, Key: "other"}, {If: backend.Absent, Key: "nowhere"}, {If: backend.Absent, Key: "nowhere2"}}
				for _, bad := range []struct {
					check backend.Check
					want  error
				}{
					{backend.Check{If: backend.Absent, Key: "here"}, backend.ErrExists},
					{backend.Check{If: backend.Present, Key: "missing"}, backend.ErrNotFound},
					{backend.Check{If: backend.AtRevision, Key: "here", Revision: stale}, backend.ErrConflict},
					{backend.Check{If: backend.AtRevision, Key: "here", Revision: rev + 1}, backend.ErrConflict},
					{backend.Check{If: backend.AtRevision, Key: "missing", Revision: rev}, backend.ErrConflict},
				} {
					for at := range len(holding) + 1 {
						checks := append(append(append([]backend.Check(nil), holding[:at]...), bad.check), holding[at:]...)
						// The written keys overlap the checked ones, in the
						// order that a driver which merges both gets wrong.
						_, err := e.s.Commit(e.ctx, backend.Txn{Checks: checks, Writes: []backend.Write{put("w", "v"), put("nowhere", "v"), del("other")}})
						what := fmt.Sprintf("Commit whose check %d, %+v, fails", at, bad.check)
						e.wantErr(err, what, bad.want)
						var ce *backend.CheckError
						if !errors.As(err, &ce) {
							e.Fatalf("%s: %v is no *CheckError", what, err)
						}
						if ce.Index != at || ce.Key != bad.check.Key || !errors.Is(ce.Err, bad.want) {
							e.Errorf("%s: CheckError %+v, want index %d, key %q", what, ce, at, bad.check.Key)
						}
						e.lists(e.s, "", backend.ListOptions{}, "here", "other")
					}
				}
				if got := e.get(e.s, "here").Revision; got != rev {
					e.Errorf("the failed transactions moved the revision from %d to %d", rev, got)
				}
			},
		},
		{
			name: "R27/of several failing checks one is named",
			run: func(e *env) {
				e.put(e.s, "here", "v")
				_, err := e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Present, Key: "missing"}, {If: backend.Absent, Key: "here"}},
					Writes: []backend.Write{put("w", "v")},
				})
				var ce *backend.CheckError
				if !errors.As(err, &ce) {
					e.Fatalf("%v is no *CheckError", err)
				}
				if ce.Index == 0 && errors.Is(ce.Err, backend.ErrNotFound) || ce.Index == 1 && errors.Is(ce.Err, backend.ErrExists) {
					return
				}
				e.Errorf("CheckError %+v names no failing check", ce)
			},
		},
		{
			name: "R27/checks alone are a transaction",
			run: func(e *env) {
				rev := e.put(e.s, "k", "v").Revision
				res, err := e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{
					{If: backend.AtRevision, Key: "k", Revision: rev}, {If: backend.Absent, Key: "nowhere"},
				}})
				e.noErr(err, "Commit of checks")
				if res.Revision != 0 || len(res.Entries) != 0 {
					e.Errorf("Commit without writes returned %+v", res)
				}
				if got := e.get(e.s, "k").Revision; got != rev {
					e.Errorf("checks alone moved the revision from %d to %d", rev, got)
				}
				_, err = e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{{If: backend.AtRevision, Key: "k", Revision: rev - 1}}})
				e.wantErr(err, "Commit of a failing check", backend.ErrConflict)
			},
		},
		{
			name: "R27/a check and a write may meet on one key",
			run: func(e *env) {
				commit := func(c backend.Check, w backend.Write) (backend.TxnResult, error) {
					return e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{c}, Writes: []backend.Write{w}})
				}
				res, err := commit(backend.Check{If: backend.Absent, Key: "k"}, put("k", "1"))
				e.noErr(err, "create")
				_, err = commit(backend.Check{If: backend.Absent, Key: "k"}, put("k", "1"))
				e.wantErr(err, "create again", backend.ErrExists)
				_, err = commit(backend.Check{If: backend.Present, Key: "k"}, put("k", "2"))
				e.noErr(err, "replace")
				_, err = commit(backend.Check{If: backend.AtRevision, Key: "k", Revision: res.Revision}, put("k", "3"))
				e.wantErr(err, "update at a stale revision", backend.ErrConflict)
				res, err = commit(backend.Check{If: backend.AtRevision, Key: "k", Revision: e.holds(e.s, "k", "2").Revision}, put("k", "3"))
				e.noErr(err, "update")
				_, err = commit(backend.Check{If: backend.AtRevision, Key: "k", Revision: res.Revision}, del("k"))
				e.noErr(err, "delete at a revision")
				e.absent(e.s, "k")
				_, err = commit(backend.Check{If: backend.Absent, Key: "k"}, del("k"))
				e.noErr(err, "delete of what is checked to be absent")
				_, err = commit(backend.Check{If: backend.Present, Key: "k"}, del("k"))
				e.wantErr(err, "delete of what has to be present", backend.ErrNotFound)
			},
		},
		{
			name: "R27/deleting absent keys is no error",
			run: func(e *env) {
				res, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{del("x"), del("y/z")}})
				e.noErr(err, "Commit")
				if len(res.Entries) != 2 || res.Entries[0].Revision != 0 || res.Entries[1].Revision != 0 {
					e.Errorf("entries %+v, want two with revision 0", res.Entries)
				}
				e.put(e.s, "d/x", "v") // d itself is a directory
				_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{del("d")}})
				e.noErr(err, "Commit that deletes a directory")
				e.holds(e.s, "d/x", "v")
			},
		},
		{
			name: "R27/a parent and its child in one transaction",
			why:  "a tree has to make and remove nodes in the right order",
			run: func(e *env) {
				_, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{put("a/b/c", "1"), put("a", "2"), put("a/b", "3")}})
				e.noErr(err, "Commit")
				e.lists(e.s, "", backend.ListOptions{}, "a", "a/b", "a/b/c")
				_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{del("a"), put("a/b/d", "4"), del("a/b/c"), del("a/b")}})
				e.noErr(err, "Commit")
				e.lists(e.s, "", backend.ListOptions{}, "a/b/d")
				_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{del("a/b/d"), put("a/b", "5"), put("x/y/z", "6")}})
				e.noErr(err, "Commit")
				e.lists(e.s, "", backend.ListOptions{}, "a/b", "x/y/z")
			},
		},
		{
			name: "R27/64 operations fit, in any mixture",
			why:  "a driver's bookkeeping must not eat the limit",
			run: func(e *env) {
				n := backend.MaxTxnOps
				keys := numbered("deep/er/k", n)
				var writes, updates, deletes, checks backend.Txn
				for i, k := range keys {
					writes.Writes = append(writes.Writes, put(k, "1"))
					deletes.Writes = append(deletes.Writes, del(k))
					checks.Checks = append(checks.Checks, backend.Check{If: backend.Present, Key: k})
					if i < n/2 {
						updates.Checks = append(updates.Checks, backend.Check{If: backend.Present, Key: k})
						updates.Writes = append(updates.Writes, put(k, "2"))
					}
				}
				for _, step := range []struct {
					name string
					txn  backend.Txn
				}{{"64 puts", writes}, {"64 checks", checks}, {"32 checks and 32 puts of the same keys", updates}, {"64 deletes", deletes}} {
					_, err := e.s.Commit(e.ctx, step.txn)
					e.noErr(err, "Commit of %s", step.name)
				}
				e.lists(e.s, "", backend.ListOptions{})

				var mixed backend.Txn // different keys, each in a directory of its own
				for i := range n / 2 {
					mixed.Checks = append(mixed.Checks, backend.Check{If: backend.Absent, Key: fmt.Sprintf("c%d/x/y", i)})
					mixed.Writes = append(mixed.Writes, put(fmt.Sprintf("w%02d/x/y", i), "v"))
				}
				res, err := e.s.Commit(e.ctx, mixed)
				e.noErr(err, "Commit of 32 checks and 32 puts of other keys")
				if len(res.Entries) != n/2 {
					e.Errorf("%d entries for %d writes", len(res.Entries), n/2)
				}
			},
		},
		{
			name: "R27/64 operations fit, whatever there is to be kept beside the keys",
			why:  "expiries, leases and locks are bookkeeping, which must not eat the limit",
			run: func(e *env) {
				n := backend.MaxTxnOps
				held := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(held)
				keys := numbered("deep/er/k", n-1)
				commit := func(what string, write func(i int) backend.Write, checks ...backend.Check) {
					e.Helper()
					t := backend.Txn{Checks: checks}
					for i := 0; len(t.Checks)+len(t.Writes) < n && i < len(keys); i++ {
						t.Writes = append(t.Writes, write(i))
					}
					_, err := e.s.Commit(e.ctx, t)
					e.noErr(err, "Commit of %s", what)
				}
				leased := func() {
					for _, k := range keys {
						e.register(e.s, k, "leased", backend.RegisterOptions{TTL: time.Minute})
					}
				}
				commit("puts with a TTL under a lock", func(i int) backend.Write {
					return backend.Write{Key: keys[i], TTL: time.Hour + time.Duration(i)*time.Minute}
				}, held.Check())
				var t backend.Txn // half of them keep their expiry
				for _, k := range keys[:n/2] {
					t.Checks = append(t.Checks, backend.Check{If: backend.AtRevision, Key: k, Revision: e.get(e.s, k).Revision})
					t.Writes = append(t.Writes, backend.Write{Key: k, Value: []byte("kept"), KeepTTL: true})
				}
				_, err := e.s.Commit(e.ctx, t)
				e.noErr(err, "Commit of puts that keep the expiry")
				if ent := e.holds(e.s, keys[0], "kept"); ent.Expires.IsZero() {
					e.Errorf("an expiry was not kept")
				}
				leased()
				commit("puts over leased keys under a lock", func(i int) backend.Write { return put(keys[i], "taken") }, held.Check())
				for _, ent := range e.list(e.s, "", backend.ListOptions{}) {
					if string(ent.Value) != "taken" || !ent.Expires.IsZero() {
						e.Errorf("%q has %q and expires %v", ent.Key, ent.Value, ent.Expires)
					}
				}
				leased()
				commit("deletes of leased keys under a lock", func(i int) backend.Write { return del(keys[i]) }, held.Check())
				e.lists(e.s, "", backend.ListOptions{})
			},
		},
		{
			name: "R27/values in a transaction are kept byte for byte",
			run: func(e *env) {
				_, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "a", Value: allBytes()}, {Key: "b"}, put("c", "null")}})
				e.noErr(err, "Commit")
				e.holds(e.s, "a", string(allBytes()))
				e.holds(e.s, "b", "")
				e.holds(e.s, "c", "null")
			},
		},
		{
			name: "R27/no reader sees a part",
			run: func(e *env) {
				other := e.open()
				both := func(n int) backend.Txn {
					v := strconv.Itoa(n)
					return backend.Txn{Writes: []backend.Write{put("x", v), put("deep/er/y", v)}}
				}
				_, err := e.s.Commit(e.ctx, both(0))
				e.noErr(err, "Commit")
				var stop atomic.Bool
				var writer sync.WaitGroup
				writer.Go(func() {
					for n := 1; n < 1000 && !stop.Load(); n++ {
						if _, err := e.s.Commit(e.ctx, both(n)); err != nil {
							e.Errorf("Commit: %v", err)
							return
						}
					}
				})
				defer writer.Wait()
				defer stop.Store(true)
				// Two reads, one after the other: what the later one sees is
				// no older. A part would show as a step back.
				number := func(key string, o backend.GetOptions) (int, backend.Revision) {
					ent, err := other.Get(e.ctx, key, o)
					e.noErr(err, "Get")
					n, err := strconv.Atoi(string(ent.Value))
					e.noErr(err, "Atoi")
					return n, ent.Revision
				}
				for i := range 100 {
					first, second := "x", "deep/er/y"
					if i%2 == 1 {
						first, second = second, first
					}
					a, rev := number(first, backend.GetOptions{})
					b, _ := number(second, backend.GetOptions{AtLeast: rev})
					if b < a {
						e.Fatalf("%q is at %d, and read after it %q at %d", first, a, second, b)
					}
				}
			},
		},
		{
			name: "R27/of transactions that check the same revisions exactly one wins",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range e.rounds(20) {
					a, b := e.put(e.s, "a", "same"), e.put(e.s, "b", "same")
					checks := []backend.Check{{If: backend.AtRevision, Key: "a", Revision: a.Revision}, {If: backend.AtRevision, Key: "b", Revision: b.Revision}}
					e.oneWins(4, backend.ErrConflict, func(i int) (backend.Revision, error) {
						t := backend.Txn{Checks: checks, Writes: []backend.Write{put("a", "same"), put("b", "same")}}
						if i >= 2 {
							t.Writes = t.Writes[i-2 : i-1] // one of the two only
						}
						res, err := stores[i%2].Commit(e.ctx, t)
						return res.Revision, err
					})
				}
			},
		},
		{
			name: "R27/a transaction that checks what another one writes is not fooled",
			why:  "write skew: two doctors go off call, each because the other one is on",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range e.rounds(20) {
					revs := map[string]backend.Revision{"a": e.put(e.s, "a", "on").Revision, "b": e.put(e.s, "b", "on").Revision}
					pair := []string{"a", "b"}
					e.oneWins(2, backend.ErrConflict, func(i int) (backend.Revision, error) {
						mine, theirs := pair[i], pair[1-i]
						res, err := stores[i].Commit(e.ctx, backend.Txn{
							Checks: []backend.Check{{If: backend.AtRevision, Key: theirs, Revision: revs[theirs]}},
							Writes: []backend.Write{put(mine, "off")},
						})
						return res.Revision, err
					})
				}
			},
		},
		{
			name: "R27/a transaction and a single write race for one revision",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range e.rounds(20) {
					rev := e.put(e.s, "k", "same").Revision
					e.oneWins(4, backend.ErrConflict, func(i int) (backend.Revision, error) {
						if i%2 == 0 {
							ent, err := stores[0].Put(e.ctx, "k", []byte("same"), backend.PutOptions{If: backend.AtRevision, Revision: rev})
							return ent.Revision, err
						}
						res, err := stores[1].Commit(e.ctx, backend.Txn{
							Checks: []backend.Check{{If: backend.AtRevision, Key: "k", Revision: rev}},
							Writes: []backend.Write{put("k", "same"), put("other", "v")},
						})
						return res.Revision, err
					})
				}
			},
		},
		{
			name: "R27/money that is moved by transactions is neither made nor lost",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				const accounts, workers, moves, start = 4, 4, 10, 100
				account := func(i int) string { return fmt.Sprintf("account/%d", i) }
				for i := range accounts {
					e.put(e.s, account(i), strconv.Itoa(start))
				}
				move := func(s backend.Store, from, to int) error {
					got, err := s.GetMany(e.ctx, []string{account(from), account(to)}, backend.GetOptions{})
					if err != nil {
						return err
					}
					a, _ := strconv.Atoi(string(got[0].Value))
					b, _ := strconv.Atoi(string(got[1].Value))
					_, err = s.Commit(e.ctx, backend.Txn{
						Checks: []backend.Check{
							{If: backend.AtRevision, Key: got[0].Key, Revision: got[0].Revision},
							{If: backend.AtRevision, Key: got[1].Key, Revision: got[1].Revision},
						},
						Writes: []backend.Write{put(got[0].Key, strconv.Itoa(a-1)), put(got[1].Key, strconv.Itoa(b+1))},
					})
					return err
				}
				e.together(workers, func(w int) {
					for done := 0; done < moves; {
						err := move(stores[w%2], w%accounts, (w+1+done%(accounts-1))%accounts)
						switch {
						case err == nil:
							done++
						case !errors.Is(err, backend.ErrConflict):
							e.Errorf("move: %v", err)
							return
						}
					}
				})
				sum := 0
				for _, ent := range e.list(e.s, "account", backend.ListOptions{}) {
					n, _ := strconv.Atoi(string(bytes.TrimSpace(ent.Value)))
					sum += n
				}
				if sum != accounts*start {
					e.Errorf("the accounts hold %d, want %d", sum, accounts*start)
				}
			},
		},
	}
}
