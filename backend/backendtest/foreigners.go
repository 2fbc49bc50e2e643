package backendtest

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
)

// adopted waits until the store lists exactly keys. Adopt is for a store that
// keeps an index of its own and did not notice a foreign write: for want of
// notifications, or because nobody was watching. Elsewhere it does nothing.
func (e *env) adopted(s backend.Store, keys ...string) {
	e.Helper()
	_, err := s.Adopt(e.ctx, "")
	e.noErr(err, "Adopt")
	var got []string
	e.eventually("the list shows what another program wrote", func() bool {
		got = keysOf(e.list(s, "", backend.ListOptions{}))
		return slices.Equal(got, keys)
	})
}

func foreignCases() []testCase {
	return []testCase{
		{
			name:  "R7/another program reads the bytes that were put, and writes the bytes that are got",
			why:   "no envelope, no header: users ask for raw values that redis-cli can read",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				for _, v := range [][]byte{allBytes(), {}, {0}, []byte("{}"), []byte("plain"), bytes.Repeat([]byte("x"), 10_000)} {
					e.put(e.s, "d/ours", string(v))
					if got, found, err := f.Get(e.ctx, "d/ours"); err != nil || !found || !bytes.Equal(got, v) {
						e.Errorf("put %q, another program reads %q (found: %v, %v)", short(v), short(got), found, err)
					}
					_, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "d/txn", Value: v}}})
					e.noErr(err, "Commit")
					if got, found, err := f.Get(e.ctx, "d/txn"); err != nil || !found || !bytes.Equal(got, v) {
						e.Errorf("committed %q, another program reads %q (found: %v, %v)", short(v), short(got), found, err)
					}
					e.noErr(f.Put(e.ctx, "d/theirs", v), "foreign Put")
					e.holds(e.s, "d/theirs", string(v))
					e.noErr(f.Put(e.ctx, "d/ours", []byte("written over")), "foreign Put")
					e.holds(e.s, "d/ours", "written over")
				}
				e.del(e.s, "d/theirs")
				if _, found, err := f.Get(e.ctx, "d/theirs"); found || err != nil {
					e.Errorf("deleted, another program still finds it (%v)", err)
				}
				e.noErr(f.Delete(e.ctx, "d/ours"), "foreign Delete")
				e.absent(e.s, "d/ours")
			},
		},
		{
			name:  "R7/bookkeeping lies beside the value, with a TTL and a lease too",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				e.putWith(e.s, "ttl", "v", backend.PutOptions{TTL: 1 << 40})
				e.register(e.s, "leased", "v", backend.RegisterOptions{TTL: 1 << 36})
				for _, k := range []string{"ttl", "leased"} {
					if got, found, err := f.Get(e.ctx, k); err != nil || !found || string(got) != "v" {
						e.Errorf("%q: another program reads %q (found: %v, %v)", k, got, found, err)
					}
				}
			},
		},
		{
			name:  "R2,R7/another program finds every canonical key where the driver's documentation says",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				keys := nastyKeys()
				for i, k := range keys {
					if i%2 == 0 {
						e.put(e.s, k, "value of "+k)
						if got, _, err := f.Get(e.ctx, k); err != nil || string(got) != "value of "+k {
							e.Errorf("%q: another program reads %q, %v", k, got, err)
						}
					} else {
						e.noErr(f.Put(e.ctx, k, []byte("value of "+k)), "foreign Put of %q", k)
						e.holds(e.s, k, "value of "+k)
					}
				}
				e.adopted(e.s, keys...)
			},
		},
		{
			name:  "R5/foreign keys are keys to every call",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				for _, k := range []string{"a", "d/x", "d/y/z", "e"} {
					e.noErr(f.Put(e.ctx, k, []byte("theirs")), "foreign Put")
				}
				many, err := e.s.GetMany(e.ctx, []string{"a", "d", "d/x"}, backend.GetOptions{})
				e.noErr(err, "GetMany")
				if string(many[0].Value) != "theirs" || many[0].Revision == 0 || many[1].Revision != 0 || many[2].Revision == 0 {
					e.Errorf("GetMany returns %+v", many)
				}
				e.adopted(e.s, "a", "d/x", "d/y/z", "e")
				e.lists(e.s, "d", backend.ListOptions{Children: true}, "d/x", "d/y/")

				ent := e.holds(e.s, "a", "theirs")
				if again := e.get(e.open(), "a"); again.Revision != ent.Revision {
					e.Errorf("a foreign key has revision %d and then %d", ent.Revision, again.Revision)
				}
				next := e.putWith(e.s, "a", "ours", backend.PutOptions{If: backend.AtRevision, Revision: ent.Revision})
				if next.Revision <= ent.Revision {
					e.Errorf("revision %d after %d", next.Revision, ent.Revision)
				}
				_, err = e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Present, Key: "e"}, {If: backend.AtRevision, Key: "d/x", Revision: e.get(e.s, "d/x").Revision}},
					Writes: []backend.Write{{Key: "e", Delete: true}},
				})
				e.noErr(err, "Commit over foreign keys")
				n, err := e.s.DeletePrefix(e.ctx, "d")
				if err != nil || n != 2 {
					e.Errorf("DeletePrefix = %d, %v, want 2", n, err)
				}
				e.lists(e.s, "", backend.ListOptions{}, "a")
				for _, k := range []string{"d/x", "d/y/z", "e"} {
					if _, found, err := f.Get(e.ctx, k); found || err != nil {
						e.Errorf("%q is still there (%v)", k, err)
					}
				}
			},
		},
		{
			name:  "R5/foreign names that are no keys are passed over",
			needs: foreign,
			run: func(e *env) {
				names, ok := e.foreign().(ForeignNames)
				if !ok {
					e.Logf("not run: the harness's Foreign has no PutName")
					return
				}
				e.put(e.s, "a", "v")
				st := e.watch(e.s, "", backend.WatchOptions{}, e.get(e.s, "a"))
				e.put(e.s, "b/c", "v")
				st.want(backend.Created, "b/c", "v")
				written := 0
				for _, name := range []string{"a//b", "dir/", "/lead", "b//", "\xff\xfe", "a/\xc0\xaf", "b/x\x00y"} {
					err := names.PutName(e.ctx, name, []byte("no key"))
					if !errors.Is(err, errors.ErrUnsupported) {
						e.noErr(err, "PutName(%q)", name)
						written++
					}
				}
				e.Logf("%d names written", written)
				if !e.caps.ForeignEvents {
					_, err := e.s.Adopt(e.ctx, "")
					e.noErr(err, "Adopt")
				}
				e.lists(e.s, "", backend.ListOptions{}, "a", "b/c")
				for _, ent := range e.list(e.s, "", backend.ListOptions{Children: true}) {
					if strings.Contains(strings.TrimSuffix(ent.Key, "/"), "/") || ent.Key == "/" {
						e.Errorf("List of children yields %q", ent.Key)
					}
				}
				if c, ok := e.s.(interface{ ForeignNames() int64 }); ok && written > 0 && c.ForeignNames() == 0 {
					e.Errorf("of the names that are no keys none is counted")
				}
				e.put(e.s, "z", "v")
				st.want(backend.Created, "z", "v")
				st.quiet()
				n, err := e.s.DeletePrefix(e.ctx, "")
				if err != nil || n != 3 {
					e.Errorf("DeletePrefix = %d, %v, want the 3 keys", n, err)
				}
			},
		},
		{
			name:  "R26,R42/ForeignEvents: a write by another program makes an event by itself",
			why:   "unset: a read or Adopt makes it",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				st := e.watch(e.open(), "", backend.WatchOptions{Prev: true})
				look := func() {
					if !e.caps.ForeignEvents {
						_, err := e.s.Adopt(e.ctx, "")
						e.noErr(err, "Adopt")
					}
				}
				e.noErr(f.Put(e.ctx, "d/k", []byte("1")), "foreign Put")
				look()
				st.want(backend.Created, "d/k", "1")
				e.noErr(f.Put(e.ctx, "d/k", []byte("2")), "foreign Put")
				look()
				st.want(backend.Updated, "d/k", "2")
				rev := e.put(e.s, "d/k", "3").Revision
				if ev := st.want(backend.Updated, "d/k", "3"); ev.Revision != rev {
					e.Errorf("the event has revision %d, the put %d", ev.Revision, rev)
				}
				e.noErr(f.Put(e.ctx, "d/k", []byte("4")), "foreign Put")
				look()
				if ev := st.want(backend.Updated, "d/k", "4"); ev.Revision != e.get(e.s, "d/k").Revision {
					e.Errorf("the event has revision %d, Get returns %d", ev.Revision, e.get(e.s, "d/k").Revision)
				}
				e.noErr(f.Delete(e.ctx, "d/k"), "foreign Delete")
				look()
				st.want(backend.Deleted, "d/k", "")
				st.quiet()
			},
		},
		{
			name:  "R26/what is read is adopted, once",
			needs: foreign,
			run: func(e *env) {
				f := e.foreign()
				st := e.watch(e.open(), "", backend.WatchOptions{})
				e.noErr(f.Put(e.ctx, "k", []byte("theirs")), "foreign Put")
				ent := e.holds(e.s, "k", "theirs")
				for range 3 {
					if again := e.get(e.s, "k"); again.Revision != ent.Revision {
						e.Errorf("read again, the revision is %d, it was %d", again.Revision, ent.Revision)
					}
				}
				if ev := st.want(backend.Created, "k", "theirs"); ev.Revision != ent.Revision {
					e.Errorf("the event has revision %d, Get returned %d", ev.Revision, ent.Revision)
				}
				if n, err := e.s.Adopt(e.ctx, ""); n != 0 || err != nil {
					e.Errorf("Adopt = %d, %v after everything was read", n, err)
				}
				st.quiet()
			},
		},
		{
			name: "R26/Adopt finds nothing where nobody else wrote",
			run: func(e *env) {
				e.fill(e.s, []string{"a", "d/b"}, func(string) string { return "v" })
				st := e.watch(e.s, "", backend.WatchOptions{}, e.list(e.s, "", backend.ListOptions{})...)
				for _, prefix := range []string{"", "d", "none"} {
					if n, err := e.s.Adopt(e.ctx, prefix); n != 0 || err != nil {
						e.Errorf("Adopt(%q) = %d, %v", prefix, n, err)
					}
				}
				st.quiet()
			},
		},
	}
}
