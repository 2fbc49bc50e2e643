package backendtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
)

// allBytes holds every byte, the sequences that text protocols end at, and
// what JSON and base64 would mangle.
func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return append(b, "\r\n\x00\xff\xfe\"\\</script>\u2028{\"a\":1}"...)
}

func valueCases() []testCase {
	return []testCase{
		{
			name: "R7/a value is kept byte for byte",
			why:  "the default codec of a predecessor's Redis store breaks on what is not JSON",
			run: func(e *env) {
				for _, v := range [][]byte{allBytes(), {0}, []byte(" "), []byte("0"), []byte("null"), []byte("{}"), []byte("\n")} {
					e.put(e.s, "k", string(v))
					e.holds(e.s, "k", string(v))
					if got := e.list(e.s, "", backend.ListOptions{}); len(got) != 1 || !bytes.Equal(got[0].Value, v) {
						e.Errorf("List yields %q, want one entry with %q", got, v)
					}
				}
			},
		},
		{
			name: "R8/nil and empty are one value, and not absence",
			why:  "empty values vanish from a predecessor's List on Redis, and ZooKeeper's directories have nil data",
			run: func(e *env) {
				for _, v := range [][]byte{nil, {}} {
					_, err := e.s.Put(e.ctx, "k", v, backend.PutOptions{})
					e.noErr(err, "Put")
					e.holds(e.s, "k", "")
					e.lists(e.s, "", backend.ListOptions{}, "k")
					many, err := e.s.GetMany(e.ctx, []string{"k", "absent"}, backend.GetOptions{})
					e.noErr(err, "GetMany")
					if many[0].Revision == 0 || many[1].Revision != 0 {
						e.Errorf("GetMany does not tell an empty value from an absent key: %+v", many)
					}
					_, err = e.s.Put(e.ctx, "k", nil, backend.PutOptions{If: backend.Absent})
					e.wantErr(err, "Put if absent over an empty value", backend.ErrExists)
					_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "t", Value: v}}})
					e.noErr(err, "Commit")
					e.holds(e.s, "t", "")
					e.del(e.s, "k")
					e.absent(e.s, "k")
					e.del(e.s, "t")
				}
			},
		},
		{
			name: "R8/a returned value is the caller's",
			why:  "a map or a page that is handed out would be changed under the store",
			run: func(e *env) {
				e.put(e.s, "k", "value")
				smash := func(b []byte) {
					for i := range b {
						b[i] = 'X'
					}
					_ = append(b, "overflow"...) // beyond the length nothing of the store's may lie either
				}
				smash(e.get(e.s, "k").Value)
				e.holds(e.s, "k", "value")
				many, err := e.s.GetMany(e.ctx, []string{"k", "k"}, backend.GetOptions{})
				e.noErr(err, "GetMany")
				smash(many[0].Value)
				if string(many[1].Value) != "value" {
					e.Errorf("GetMany: two entries for one key share memory")
				}
				for _, ent := range e.list(e.s, "", backend.ListOptions{}) {
					smash(ent.Value)
				}
				e.holds(e.s, "k", "value")
			},
		},
		{
			name: "R8/values of a list do not overlap",
			why:  "slices of one page, cut without a capacity, overwrite each other when the caller appends",
			run: func(e *env) {
				e.fill(e.s, numbered("k", 10), func(k string) string { return k })
				got := e.list(e.s, "", backend.ListOptions{})
				for _, ent := range got {
					_ = append(ent.Value, "overflow"...)
				}
				for _, ent := range got {
					if string(ent.Value) != ent.Key {
						e.Errorf("after appending to others, %q has value %q", ent.Key, ent.Value)
					}
				}
			},
		},
		{
			name: "R8/the store keeps nothing of the caller's",
			run: func(e *env) {
				v := []byte("value")
				_, err := e.s.Put(e.ctx, "p", v, backend.PutOptions{})
				e.noErr(err, "Put")
				copy(v, "XXXXX")
				e.holds(e.s, "p", "value")

				w := []byte("value")
				_, err = e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "t", Value: w}}})
				e.noErr(err, "Commit")
				copy(w, "XXXXX")
				e.holds(e.s, "t", "value")

				r := []byte("value")
				l, err := e.s.Register(e.ctx, "r", r, backend.RegisterOptions{TTL: time.Minute})
				e.noErr(err, "Register")
				defer func() { e.noErr(l.Release(e.ctx), "Release") }()
				copy(r, "XXXXX")
				e.holds(e.s, "r", "value")
				r = []byte("other")
				_, err = l.Set(e.ctx, r)
				e.noErr(err, "Set")
				copy(r, "XXXXX")
				e.noErr(l.Renew(e.ctx), "Renew") // which may write what it keeps
				e.holds(e.s, "r", "other")

				shown := []byte("value")
				c := e.contend(e.s, "l", backend.ContendOptions{Value: shown})
				copy(shown, "XXXXX")
				e.admitted(c)
				e.noErr(c.Renew(e.ctx), "Renew")
				h := e.holders(e.s, "l")
				h.want("value", true)
				shown = []byte("other")
				e.noErr(c.Set(e.ctx, shown), "Set")
				copy(shown, "XXXXX")
				h.want("other", true)

				keys := []string{"p", "t"}
				many, err := e.s.GetMany(e.ctx, keys, backend.GetOptions{})
				e.noErr(err, "GetMany")
				keys[0], keys[1] = "x", "x"
				if many[0].Key != "p" || many[1].Key != "t" {
					e.Errorf("GetMany keeps the caller's slice of keys")
				}
			},
		},
		{
			name: "R9/a value of MaxValueBytes works, one byte more is ErrTooLarge before it is sent",
			why:  "over about 1 MiB ZooKeeper's server drops the connection, and with it every watch and lock",
			run: func(e *env) {
				limit := e.caps.MaxValueBytes
				if limit <= 0 {
					e.Fatalf("MaxValueBytes = %d", limit)
				}
				const affordable = 16 << 20
				works := make([]byte, min(limit, affordable))
				for i := range works {
					works[i] = byte(rand.Uint32()) // does not compress, and 3/4 of it need escaping as text
				}
				e.put(e.s, "k", string(works))
				e.holds(e.s, "k", string(works))
				if limit > 8*affordable {
					e.Logf("not run: MaxValueBytes is %d, more than a test should allocate", limit)
					return
				}
				over := make([]byte, limit+1)
				e.withoutIO("a put that is too large", func() {
					_, err := e.s.Put(e.ctx, "k", over, backend.PutOptions{})
					e.wantErr(err, "Put of MaxValueBytes+1", backend.ErrTooLarge)
				})
				e.withoutIO("a transaction with a value that is too large", func() {
					_, err := e.s.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: "k", Value: over}}})
					e.wantErr(err, "Commit of MaxValueBytes+1", backend.ErrTooLarge)
				})
				e.withoutIO("a registration of a value that is too large", func() {
					_, err := e.s.Register(e.ctx, "r", over, backend.RegisterOptions{TTL: time.Minute})
					e.wantErr(err, "Register of MaxValueBytes+1", backend.ErrTooLarge)
				})
				l := e.register(e.s, "r", string(works), backend.RegisterOptions{TTL: time.Minute})
				e.withoutIO("a value that is too large under a lease", func() {
					_, err := l.Set(e.ctx, over)
					e.wantErr(err, "Set of MaxValueBytes+1", backend.ErrTooLarge)
				})
				e.holds(e.s, "r", string(works))
				e.noErr(l.Renew(e.ctx), "Renew after what was refused")
				e.holds(e.s, "k", string(works))
				e.put(e.s, "k", "the connection survives")
			},
		},
		{
			name: "R9/a transaction over MaxTxnBytes is ErrTooLarge before it is sent",
			run: func(e *env) {
				limit := e.caps.MaxTxnBytes
				if limit <= 0 {
					e.Fatalf("MaxTxnBytes = %d", limit)
				}
				if limit > 128<<20 {
					e.Logf("not run: MaxTxnBytes is %d, more than a test should allocate", limit)
					return
				}
				// As many values as it takes, none of them too large by itself.
				txn := backend.Txn{}
				each := min(limit/8+1, e.caps.MaxValueBytes)
				for i := 0; i*each <= limit && i < backend.MaxTxnOps; i++ {
					txn.Writes = append(txn.Writes, backend.Write{Key: numbered("k", i+1)[i], Value: make([]byte, each)})
				}
				if len(txn.Writes)*each <= limit {
					e.Logf("not run: %d values of MaxValueBytes fit into MaxTxnBytes", backend.MaxTxnOps)
					return
				}
				e.withoutIO("a transaction that is too large", func() {
					_, err := e.s.Commit(e.ctx, txn)
					e.wantErr(err, "Commit", backend.ErrTooLarge)
				})
				e.lists(e.s, "", backend.ListOptions{})
				e.put(e.s, "k", "the connection survives")
			},
		},
		{
			name: "R9/a key of MaxKeyBytes works, or is ErrInvalidKey where escaping makes it longer",
			why:  "a native name that is over the store's limit would drop a connection, or be cut",
			run: func(e *env) {
				if e.caps.MaxKeyBytes <= 0 {
					e.Fatalf("MaxKeyBytes = %d", e.caps.MaxKeyBytes)
				}
				limit := min(e.caps.MaxKeyBytes, 1<<20)
				// Few segments, for the stores that keep a node for each.
				seg := max(200, limit/8)
				plain := []byte(strings.Repeat("k", limit))
				for i := seg; i < limit-1; i += seg + 1 {
					plain[i] = '/'
				}
				key := string(plain)
				e.put(e.s, key, "v")
				e.holds(e.s, key, "v")
				e.lists(e.s, "", backend.ListOptions{}, key)
				e.del(e.s, key)
				st := e.watch(e.s, key, backend.WatchOptions{Key: true})
				e.putWith(e.s, key, "ttl", backend.PutOptions{If: backend.Absent, TTL: time.Hour})
				st.want(backend.Created, key, "ttl")
				held := e.contend(e.s, key, backend.ContendOptions{})
				e.admitted(held)
				_, err := e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Present, Key: key}, held.Check()},
					Writes: []backend.Write{{Key: key, Value: []byte("txn"), TTL: time.Hour}},
				})
				e.noErr(err, "Commit with a key of MaxKeyBytes")
				st.want(backend.Updated, key, "txn")
				e.release(held)
				l := e.register(e.s, key, "leased", backend.RegisterOptions{TTL: time.Minute})
				st.want(backend.Updated, key, "leased")
				e.noErr(l.Renew(e.ctx), "Renew")
				e.noErr(l.Release(e.ctx), "Release")
				st.want(backend.Deleted, key, "")

				nasty := strings.Repeat("\x01", limit)
				_, err = e.s.Put(e.ctx, nasty, []byte("v"), backend.PutOptions{})
				switch {
				case err == nil:
					e.holds(e.s, nasty, "v")
					e.del(e.s, nasty)
				case !errors.Is(err, backend.ErrInvalidKey):
					e.Errorf("Put with a key whose escaped form is too long: %v, want success or ErrInvalidKey", err)
				}
				e.put(e.s, "k", "the connection survives")
			},
		},
	}
}
