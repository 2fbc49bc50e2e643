package backendtest

import (
	"slices"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
)

// nastyKeys are canonical keys that some store or some client refuses, folds,
// or takes for syntax.
func nastyKeys() []string {
	keys := []string{
		// Path syntax: ZooKeeper and Consul's URLs refuse or fold it.
		".", "..", "./x", "../x", "a/.", "a/..", "a/./b", "a/../b", "...", ".hidden", "a/.hidden",
		// Spaces, outer ones too: newer Consul servers refuse them.
		" ", "  ", " lead", "trail ", "a b", "a/ /b",
		// Percent signs, whole and broken escapes: a client that decodes once too often.
		"%", "%%", "%2F", "%2f", "%2e%2e", "%41", "%zz", "%0", "%00", "100%", "%25",
		// What an escaping of our own might look like.
		"=2e", "~2e", "_2e", "\\x2e", "\\u002e", "=", "a=b", "==", "~", "~~", "_", "__", "^", "!", "!!",
		// Globs and patterns: an unescaped one has emptied a Redis database.
		"*", "a*", "*b", "?", "[", "]", "[a-z]", "[^a]", "{a,b}", "{tag}", "}{", "a{b}c",
		// Separators of queries, shells, Redis and resume tokens.
		":", "a:b", ";", "&", "a&b=c", "#", "#frag", "+", "a+b", "|", "<>", "\"", "'", "`", "$HOME", "$(x)", "@", ",", "(", ")", "\\", "a\\b", "-", "--flag",
		// Control characters: ZooKeeper refuses 0x01–1F and 7F–9F, Consul's URLs answer 400.
		"\x01", "\x1f", "\x7f", "\u0080", "\u0085", "\u009f", "tab\there", "new\nline", "cr\r\nlf", "\x1b[31m", "a/\x02/b",
		// Beyond the BMP and at its rim: ZooKeeper refuses D800–F8FF and FFF0–FFFF, hence emoji.
		"😀", "a/😀/b", "👩‍👩‍👧", "\ue000", "\uf8ff", "\ufff0", "\ufffd", "\uffff", "\U0010ffff", "𝔘",
		// Unicode that compares equal to something else if somebody normalises or folds case.
		"é", "e\u0301", "ﬁ", "fi", "A", "a", "İ", "ß", "日本語", "\u202egnp", "\u00a0", "\u200b", "\ufeff",
		// Names that stores or this library use themselves.
		"zookeeper", "zookeeper/quota", "zookeeper/config", "lock", "locks", "meta", ".meta", "_meta", ".kv", "kv", "ttl", "index", "log", "schema", "epoch", "sys", "null", "nil", "0",
		// Neighbours of the separator: "-" and "." sort before "/", "0" after it.
		"a-b", "a.b", "a/b", "a0b", "a!b", "a/b/c", "a/b-c", "a/b.c",
		// Long, as a segment and as a path.
		strings.Repeat("x", 200), strings.Repeat("s/", 20) + "s",
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func keyCases() []testCase {
	return []testCase{
		{
			name: "R2/every canonical key comes back from Get as it was put",
			why:  "stores refuse or fold names of their own choice; a user must not have to know them",
			run: func(e *env) {
				keys := nastyKeys()
				for _, k := range keys {
					e.put(e.s, k, "value of "+k)
				}
				for _, k := range keys { // after all puts: two keys that collide are found here
					e.holds(e.s, k, "value of "+k)
				}
				many, err := e.s.GetMany(e.ctx, keys, backend.GetOptions{})
				e.noErr(err, "GetMany")
				for i, ent := range many {
					if ent.Key != keys[i] || string(ent.Value) != "value of "+keys[i] {
						e.Errorf("GetMany: at %q stands %q with %q", keys[i], ent.Key, ent.Value)
					}
				}
			},
		},
		{
			name: "R2/every canonical key comes back from List, in byte order, and can be deleted",
			why:  "escaping reorders names natively, so the order must be that of the decoded keys",
			run: func(e *env) {
				keys := nastyKeys()
				e.fill(e.s, keys, func(k string) string { return "value of " + k })
				got := e.list(e.s, "", backend.ListOptions{})
				if !slices.Equal(keysOf(got), keys) {
					e.Fatalf("List yields\n%q\nwant\n%q", keysOf(got), keys)
				}
				for _, ent := range got {
					if string(ent.Value) != "value of "+ent.Key {
						e.Errorf("List: %q has value %q", ent.Key, ent.Value)
					}
				}
				for i, k := range keys {
					e.del(e.s, k)
					e.absent(e.s, k)
					if i%16 == 0 {
						e.lists(e.s, "", backend.ListOptions{KeysOnly: true}, keys[i+1:]...)
					}
				}
				e.lists(e.s, "", backend.ListOptions{})
			},
		},
		{
			name: "R2/every canonical key works in a transaction and under conditions",
			run: func(e *env) {
				for _, k := range nastyKeys() {
					res, err := e.s.Commit(e.ctx, backend.Txn{
						Checks: []backend.Check{{If: backend.Absent, Key: k}},
						Writes: []backend.Write{{Key: k, Value: []byte("1")}},
					})
					e.noErr(err, "Commit that creates %q", k)
					ent := e.putWith(e.s, k, "2", backend.PutOptions{If: backend.AtRevision, Revision: res.Revision})
					_, err = e.s.Put(e.ctx, k, []byte("3"), backend.PutOptions{If: backend.Absent})
					e.wantErr(err, "Put if absent of "+k, backend.ErrExists)
					e.noErr(e.s.Delete(e.ctx, k, backend.DeleteOptions{If: backend.AtRevision, Revision: ent.Revision}), "Delete(%q)", k)
				}
			},
		},
		{
			name: "R2,R29/every canonical key can be registered",
			run: func(e *env) {
				leases := map[string]backend.Lease{}
				for _, k := range nastyKeys() {
					leases[k] = e.register(e.s, k, "1", backend.RegisterOptions{TTL: time.Minute, Absent: true})
				}
				for _, k := range nastyKeys() { // after all: two that collide are found here
					l := leases[k]
					_, err := l.Set(e.ctx, []byte("value of "+k))
					e.noErr(err, "Set of %q", k)
					e.noErr(l.Renew(e.ctx), "Renew of %q", k)
				}
				for _, k := range nastyKeys() {
					e.holds(e.s, k, "value of "+k)
					e.noErr(leases[k].Release(e.ctx), "Release of %q", k)
					e.absent(e.s, k)
				}
				e.lists(e.s, "", backend.ListOptions{})
			},
		},
		{
			name:  "R2,R28/every canonical key can expire",
			timed: true,
			run: func(e *env) {
				keys := nastyKeys()
				st := e.watch(e.open(), "", backend.WatchOptions{})
				ttl := e.ttl() + 4*time.Second // to be seen before it ends, where changes may be merged
				var last span
				for part := range slices.Chunk(keys, backend.MaxTxnOps) {
					var t backend.Txn
					for _, k := range part {
						t.Writes = append(t.Writes, backend.Write{Key: k, TTL: ttl})
					}
					last = e.timed(func() error {
						_, err := e.s.Commit(e.ctx, t)
						return err
					})
				}
				e.lives("the last of them", last, ttl, func() bool { return len(e.list(e.s, "", backend.ListOptions{KeysOnly: true})) == 0 })
				many, err := e.s.GetMany(e.ctx, keys, backend.GetOptions{})
				e.noErr(err, "GetMany")
				for i, ent := range many {
					if ent.Revision != 0 {
						e.Errorf("%q is there after its TTL", keys[i])
					}
				}
				created, deleted := map[string]bool{}, map[string]bool{}
				for len(deleted) < len(keys) {
					if ev := st.next(); ev.Kind == backend.Created {
						created[ev.Key] = true
					} else {
						deleted[ev.Key] = true
					}
				}
				for _, k := range keys {
					if !created[k] || !deleted[k] {
						e.Errorf("%q: created %v, deleted %v", k, created[k], deleted[k])
					}
				}
			},
		},
		{
			name: "R2/every canonical segment works as a prefix",
			why:  "escaping must not depend on what surrounds a segment, or a prefix would not bound its keys",
			run: func(e *env) {
				var keys []string
				for _, k := range nastyKeys() {
					if !strings.Contains(k, "/") {
						keys = append(keys, k)
					}
				}
				under := func(k string) []string { return []string{k + "/.", k + "/x", k + "/😀"} }
				for _, k := range keys {
					e.fill(e.s, append(under(k), k), func(string) string { return "v" })
				}
				for _, k := range keys {
					e.lists(e.s, k, backend.ListOptions{KeysOnly: true}, under(k)...)
				}
				for _, k := range keys {
					n, err := e.s.DeletePrefix(e.ctx, k)
					e.noErr(err, "DeletePrefix(%q)", k)
					if n != 3 {
						e.Errorf("DeletePrefix(%q) = %d, want 3", k, n)
					}
				}
				e.lists(e.s, "", backend.ListOptions{KeysOnly: true}, keys...)
			},
		},
		{
			name: "R3/a prefix is bounded by segments and does not cover its own name",
			why:  "in every predecessor foo lists and deletes foobar",
			run: func(e *env) {
				all := []string{"fo", "foo", "foo-bar", "foo.bar", "foo/bar", "foo/bar/baz", "foo0", "foobar", "foobar/x", "foo bar"}
				slices.Sort(all)
				e.fill(e.s, all, func(string) string { return "v" })
				e.lists(e.s, "foo", backend.ListOptions{}, "foo/bar", "foo/bar/baz")
				e.lists(e.s, "foo/bar", backend.ListOptions{}, "foo/bar/baz")
				e.lists(e.s, "foo/ba", backend.ListOptions{})
				e.lists(e.s, "f", backend.ListOptions{})
				e.lists(e.s, "", backend.ListOptions{}, all...)

				n, err := e.s.DeletePrefix(e.ctx, "foo")
				e.noErr(err, "DeletePrefix")
				if n != 2 {
					e.Errorf("DeletePrefix = %d, want 2", n)
				}
				e.lists(e.s, "", backend.ListOptions{}, "fo", "foo", "foo bar", "foo-bar", "foo.bar", "foo0", "foobar", "foobar/x")
			},
		},
		{
			name: "R3/a prefix of pattern characters covers its own keys only",
			why:  `on Redis an unescaped DeleteTree("*") emptied the database`,
			run: func(e *env) {
				e.fill(e.s, []string{"*/x", "?/x", "[a]/x", "a/x", "b"}, func(string) string { return "v" })
				for _, p := range []string{"*", "?", "[a]"} {
					e.lists(e.s, p, backend.ListOptions{}, p+"/x")
					n, err := e.s.DeletePrefix(e.ctx, p)
					e.noErr(err, "DeletePrefix(%q)", p)
					if n != 1 {
						e.Errorf("DeletePrefix(%q) = %d, want 1", p, n)
					}
				}
				e.lists(e.s, "", backend.ListOptions{}, "a/x", "b")
			},
		},
		{
			name: "R3/DeletePrefix of everything empties the root and nothing beside it",
			why:  `on bbolt a DeleteTree("") never returned and held the write lock`,
			run: func(e *env) {
				beside := e.openAt(e.root + "2") // shares all of the root's name as a string prefix
				e.put(beside, "a", "kept")
				keys := numbered("d/k", 300)
				e.fill(e.s, keys, func(string) string { return "v" })
				n, err := e.s.DeletePrefix(e.ctx, "")
				e.noErr(err, "DeletePrefix")
				if n != 300 {
					e.Errorf("DeletePrefix = %d, want 300", n)
				}
				e.lists(e.s, "", backend.ListOptions{})
				n, err = e.s.DeletePrefix(e.ctx, "")
				e.noErr(err, "DeletePrefix of nothing")
				if n != 0 {
					e.Errorf("DeletePrefix of nothing = %d", n)
				}
				e.put(e.s, "a", "again")
				e.holds(beside, "a", "kept")
				e.del(beside, "a")
			},
		},
		{
			name: "R4/a key may hold a value and have children",
			why:  "ZooKeeper has no directories beside files, and bbolt has buckets beside keys",
			run: func(e *env) {
				e.put(e.s, "a/b/c", "deep")
				e.absent(e.s, "a") // what the store needs in between is no key
				e.absent(e.s, "a/b")
				e.lists(e.s, "", backend.ListOptions{}, "a/b/c")

				e.putWith(e.s, "a/b", "middle", backend.PutOptions{If: backend.Absent})
				e.put(e.s, "a", "") // an empty value is not the nothing of a directory
				e.lists(e.s, "", backend.ListOptions{}, "a", "a/b", "a/b/c")
				e.holds(e.s, "a", "")
				e.holds(e.s, "a/b", "middle")

				e.del(e.s, "a/b")
				e.absent(e.s, "a/b")
				e.wantErr(e.s.Delete(e.ctx, "a/b", backend.DeleteOptions{}), "second Delete", backend.ErrNotFound)
				e.holds(e.s, "a/b/c", "deep")
				e.lists(e.s, "", backend.ListOptions{}, "a", "a/b/c")

				e.del(e.s, "a/b/c")
				e.lists(e.s, "", backend.ListOptions{}, "a")
				e.lists(e.s, "", backend.ListOptions{Children: true}, "a") // no empty directory is left
				e.putWith(e.s, "a/b", "new", backend.PutOptions{If: backend.Absent})
				e.del(e.s, "a")
				e.lists(e.s, "", backend.ListOptions{}, "a/b")
			},
		},
		{
			name: "R4/conditions see a directory as an absent key",
			run: func(e *env) {
				e.put(e.s, "d/x", "v")
				_, err := e.s.Put(e.ctx, "d", nil, backend.PutOptions{If: backend.Present})
				e.wantErr(err, "Put if present of a directory", backend.ErrNotFound)
				e.wantErr(e.s.Delete(e.ctx, "d", backend.DeleteOptions{}), "Delete of a directory", backend.ErrNotFound)
				_, err = e.s.Commit(e.ctx, backend.Txn{Checks: []backend.Check{{If: backend.Present, Key: "d"}}})
				e.wantErr(err, "check that a directory is present", backend.ErrNotFound)
				_, err = e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Absent, Key: "d"}},
					Writes: []backend.Write{{Key: "d", Value: []byte("v")}},
				})
				e.noErr(err, "Commit that creates a key where a directory is")
				e.holds(e.s, "d", "v")
				e.holds(e.s, "d/x", "v")
			},
		},
	}
}
