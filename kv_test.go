package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

// calls is every operation that takes a key or, with prefix, a prefix.
func calls(ctx context.Context, s *kv.Store, key string) map[string]func() error {
	return map[string]func() error{
		"get":      func() error { _, err := s.Get(ctx, key); return err },
		"get many": func() error { _, err := s.GetMany(ctx, []string{"good", key}); return err },
		"exists":   func() error { _, err := s.Exists(ctx, key); return err },
		"put":      func() error { _, err := s.Put(ctx, key, nil); return err },
		"create":   func() error { _, err := s.Create(ctx, key, nil); return err },
		"update":   func() error { _, err := s.Update(ctx, key, nil, 1); return err },
		"modify": func() error {
			_, err := s.Modify(ctx, key, func(*kv.Entry[[]byte]) error { return nil }, kv.Upsert())
			return err
		},
		"delete":   func() error { return s.Delete(ctx, key) },
		"register": func() error { _, err := s.Register(ctx, key, nil, time.Minute); return err },
		"watch key": func() error {
			_, err := s.WatchKey(ctx, key)
			return err
		},
		"list after": func() error { _, err := kv.Collect(s.List(ctx, "", kv.After(key+"/"))); return err },
		"commit put": func() error { t := s.Txn(); t.Put(key, nil); _, err := t.Commit(ctx); return err },
		"commit delete": func() error {
			t := s.Txn()
			t.Delete(key)
			_, err := t.Commit(ctx)
			return err
		},
		"commit check": func() error {
			t := s.Txn()
			t.IfPresent(key)
			_, err := t.Commit(ctx)
			return err
		},
		"check": func() error {
			_, err := s.Put(ctx, "good", nil, kv.If(kv.Check{If: backend.Present, Key: key}))
			return err
		},
		"key": func() error { _, err := s.Key(key); return err },
	}
}

func prefixCalls(ctx context.Context, s *kv.Store, prefix string) map[string]func() error {
	return map[string]func() error{
		"list":          func() error { _, err := kv.Collect(s.List(ctx, prefix)); return err },
		"watch":         func() error { _, err := s.Watch(ctx, prefix); return err },
		"delete prefix": func() error { _, err := s.DeletePrefix(ctx, prefix); return err },
		"sub":           func() error { _, err := s.Sub(prefix).Get(ctx, "k"); return err },
		"typed": func() error {
			_, err := kv.NewTyped(s, codec.String(), prefix).Put(ctx, "k", "")
			return err
		},
	}
}

// idleCalls have no key, and nothing that they had to ask a store for.
func idleCalls(ctx context.Context, s *kv.Store) map[string]func() error {
	return map[string]func() error{
		"get many of no keys": func() error { _, err := s.GetMany(ctx, nil); return err },
		"empty commit":        func() error { _, err := s.Txn().Commit(ctx); return err },
		"adopt":               func() error { _, err := s.Adopt(ctx); return err },
		"ping":                func() error { return s.Ping(ctx) },
	}
}

// TestInvalidKeys is R1: refused before any I/O, by every operation.
func TestInvalidKeys(t *testing.T) {
	s, b := newCounted(t)
	long := strings.Repeat("k", s.Capabilities().MaxKeyBytes+1)
	for name, key := range map[string]string{
		"empty": "", "slashes": "///", "NUL": "a\x00b", "not UTF-8": "a\xff", "long": long,
	} {
		for op, call := range calls(t.Context(), s, key) {
			if op == "list after" && strings.Trim(key, "/") == "" {
				continue // "/" is refused, "//" too; "" is no After
			}
			matches(t, op+" of a key: "+name, call(), kv.ErrInvalidKey)
		}
		if name == "empty" || name == "slashes" {
			continue
		}
		for op, call := range prefixCalls(t.Context(), s, key) {
			matches(t, op+" of a prefix: "+name, call(), kv.ErrInvalidKey)
		}
	}
	matches(t, "After a slash", must1(kv.Collect(s.List(t.Context(), "", kv.After("/")))), kv.ErrInvalidKey)
	bad := kv.New(memkv.New(memkv.Options{}), kv.Prefix("a\x00"))
	defer bad.Close()
	for op, call := range calls(t.Context(), bad, "good") {
		matches(t, op+" of a store with a bad prefix", call(), kv.ErrInvalidKey)
	}
	for op, call := range idleCalls(t.Context(), bad) {
		matches(t, op+" of a store with a bad prefix", call(), kv.ErrInvalidKey)
	}
	checked := bad.Txn() // by a check that needs no prefix
	checked.If(kv.Check{If: backend.Absent, Key: "k"})
	matches(t, "commit of a store with a bad prefix", must1(checked.Commit(t.Context())), kv.ErrInvalidKey)
	matches(t, "sub of a bad prefix", must1(bad.Sub("x").Get(t.Context(), "k")), kv.ErrInvalidKey)
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the store", n)
	}
	if _, err := s.Get(t.Context(), long); len(err.Error()) > 200 {
		t.Errorf("the error shows %d bytes of a key that is too long", len(err.Error()))
	}
}

func must1[T any](_ T, err error) error { return err }

// TestNormalising is R1 and R3: one form of a key, relative to its view.
func TestNormalising(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t, kv.Prefix("/shop//"))
	view := s.Sub("//orders/").Sub("").Sub("2024/")
	e := must[kv.Entry[[]byte]](t)(view.Put(ctx, "/a//b/", []byte("v")))
	if e.Key != "a/b" {
		t.Errorf("Put says %q", e.Key)
	}
	if full, err := view.Key("a/b/"); err != nil || full != "shop/orders/2024/a/b" {
		t.Errorf("Key says %q, %v", full, err)
	}
	if e, err := b.Store.Get(ctx, "shop/orders/2024/a/b", backend.GetOptions{}); err != nil || string(e.Value) != "v" {
		t.Errorf("the driver has %v, %v", e, err)
	}
	for _, key := range []string{"a/b", "/a/b", "a//b", "a/b//"} {
		if e, err := view.Get(ctx, key); err != nil || e.Key != "a/b" {
			t.Errorf("Get(%q): %v, %v", key, e, err)
		}
	}
	if got := must[[]kv.Lookup[[]byte]](t)(view.GetMany(ctx, []string{"/none//x", "a//b"})); got[0].Key != "none/x" || got[1].Key != "a/b" {
		t.Errorf("GetMany: %q, %q", got[0].Key, got[1].Key)
	}
	// A prefix covers what is strictly below it.
	for _, key := range []string{"foo", "foo/bar", "foo/bar/baz", "foobar"} {
		must[kv.Entry[[]byte]](t)(s.Put(ctx, key, nil))
	}
	for prefix, want := range map[string][]string{
		"foo":      {"foo/bar", "foo/bar/baz"},
		"/foo//":   {"foo/bar", "foo/bar/baz"},
		"fo":       nil,
		"foo/bar/": {"foo/bar/baz"},
		"":         {"foo", "foo/bar", "foo/bar/baz", "foobar", "orders/2024/a/b"},
	} {
		var got []string
		for e, err := range s.List(ctx, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("below %q: %q, want %q", prefix, got, want)
		}
	}
	if n, err := s.DeletePrefix(ctx, "foo"); n != 2 || err != nil {
		t.Errorf("DeletePrefix: %d, %v", n, err)
	}
	if n, err := s.Sub("orders").DeletePrefix(ctx, ""); n != 1 || err != nil {
		t.Errorf("DeletePrefix of all in a view: %d, %v", n, err)
	}
	// A view has no life of its own.
	if err := errors.Join(view.Close(), view.Close()); err != nil {
		t.Error(err)
	}
	if ok, err := view.Exists(ctx, "a/b"); ok || err != nil {
		t.Errorf("after Close of a view: %v, %v", ok, err)
	}
}

// TestPortable is R9 and R42: the smallest limits of all, before any I/O.
func TestPortable(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t, kv.Portable(), kv.Prefix("p"))
	c := s.Capabilities()
	if c.MaxKeyBytes != kv.PortableMaxKeyBytes || c.MaxValueBytes != kv.PortableMaxValueBytes ||
		c.MaxTxnBytes != kv.PortableMaxTxnBytes || c.MinLease != kv.PortableMinLease {
		t.Errorf("the capabilities say %+v", c)
	}
	fits, big := make([]byte, kv.PortableMaxValueBytes), make([]byte, kv.PortableMaxValueBytes+1)
	longest := strings.Repeat("k", kv.PortableMaxKeyBytes-len("p/"))
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", fits))
	must[kv.Entry[[]byte]](t)(s.Put(ctx, longest, nil))
	before := b.calls.Load()
	typed := kv.NewTyped(s, codec.Bytes(), "")
	for name, err := range map[string]error{
		"put":              must1(s.Put(ctx, "k", big)),
		"typed put":        must1(typed.Put(ctx, "k", big)),
		"register":         must1(s.Register(ctx, "k", big, time.Minute)),
		"put with a check": must1(s.Put(ctx, "k", fits, kv.If(kv.Check{If: backend.Present, Key: "p/k"}))),
		"commit": func() error {
			tx := s.Txn()
			tx.Put("a", fits[:kv.PortableMaxTxnBytes/2])
			tx.Put("b", fits[:kv.PortableMaxTxnBytes/2])
			_, err := tx.Commit(ctx)
			return err
		}(),
	} {
		matches(t, name, err, kv.ErrTooLarge)
	}
	matches(t, "a long key", must1(s.Put(ctx, longest+"k", nil)), kv.ErrInvalidKey)
	if n := b.calls.Load() - before; n != 0 {
		t.Errorf("%d calls reached the store", n)
	}
	_, err := s.Modify(ctx, "k", func(e *kv.Entry[[]byte]) error { e.Value = big; return nil })
	matches(t, "modify", err, kv.ErrTooLarge)
	reg := must[*kv.Registration[[]byte]](t)(s.Register(ctx, "r", nil, time.Second))
	matches(t, "update of a registration", reg.Update(ctx, big), kv.ErrTooLarge)
	if b.ttl != kv.PortableMinLease {
		t.Errorf("a shorter lease than MinLease became %v", b.ttl)
	}
}

// TestValidation is R11 and R28: what no store could mean, before any I/O.
func TestValidation(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t)
	short, long := s.Capabilities().MinTTL-1, backend.MaxTTL+1
	noop := func(*kv.Entry[[]byte]) error { return nil }
	revisionZero := kv.Check{If: backend.AtRevision, Key: "k"}
	txn := func(f func(*kv.Txn)) error {
		tx := s.Txn()
		f(tx)
		_, err := tx.Commit(ctx)
		return err
	}
	for name, err := range map[string]error{
		"update at revision 0":       must1(s.Update(ctx, "k", nil, 0)),
		"delete at revision 0":       s.Delete(ctx, "k", kv.IfRevision(0)),
		"checked at revision 0":      must1(s.Put(ctx, "k", nil, kv.If(revisionZero))),
		"txn update at revision 0":   txn(func(tx *kv.Txn) { tx.Update("k", nil, 0) }),
		"txn delete at revision 0":   txn(func(tx *kv.Txn) { tx.Delete("k", kv.IfRevision(0)) }),
		"txn check at revision 0":    txn(func(tx *kv.Txn) { tx.IfRevision("k", 0) }),
		"txn If at revision 0":       txn(func(tx *kv.Txn) { tx.If(revisionZero) }),
		"check without condition":    must1(s.Put(ctx, "k", nil, kv.If(kv.Check{Key: "k"}))),
		"short TTL":                  must1(s.Put(ctx, "k", nil, kv.TTL(short))),
		"negative TTL":               must1(s.Create(ctx, "k", nil, kv.TTL(-time.Hour))),
		"TTL of zero":                must1(s.Update(ctx, "k", nil, 1, kv.TTL(0))),
		"short TTL of modify":        must1(s.Modify(ctx, "k", noop, kv.TTL(short))),
		"short TTL of txn":           txn(func(tx *kv.Txn) { tx.Put("k", nil, kv.TTL(short)) }),
		"short TTL of register":      must1(s.Register(ctx, "k", nil, short)),
		"long TTL":                   must1(s.Put(ctx, "k", nil, kv.TTL(long))),
		"long TTL of txn":            txn(func(tx *kv.Txn) { tx.Put("k", nil, kv.TTL(long)) }),
		"long TTL of register":       must1(s.Register(ctx, "k", nil, long)),
		"limit 0":                    must1(kv.Collect(s.List(ctx, "", kv.Limit(0)))),
		"limit -1":                   must1(kv.Collect(s.List(ctx, "", kv.Limit(-1)))),
		"resume beside snapshot":     must1(s.Watch(ctx, "", kv.Resume("x"), kv.FromSnapshot())),
		"snapshot beside resume key": must1(s.WatchKey(ctx, "k", kv.FromSnapshot(), kv.Resume("x"))),
		"delete all":                 must1(s.DeletePrefix(ctx, "")),
		"delete all, slashes":        must1(s.DeletePrefix(ctx, "//")),
		"delete all of a view":       must1(s.Sub("").DeletePrefix(ctx, "")),
	} {
		matches(t, name, err, kv.ErrInvalid)
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the store", n)
	}
	// nil is no option.
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", nil, nil))
	must[kv.Entry[[]byte]](t)(s.Get(ctx, "k", nil))
	must[[]kv.Entry[[]byte]](t)(kv.Collect(s.List(ctx, "", nil)))
	must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "", nil)).Close()
}

// TestGetMany is R13 and R44.
func TestGetMany(t *testing.T) {
	ctx := t.Context()
	for name, s := range map[string]*kv.Store{
		"memory": kv.New(memkv.New(memkv.Options{})),
		"bolt":   must[*kv.Store](t)(kv.Drivers{boltkv.Driver{}}.Open(ctx, "bolt://"+t.TempDir()+"/db")),
	} {
		t.Run(name, func(t *testing.T) {
			defer s.Close()
			ns := kv.NewTyped(s, codec.JSON[int](), "n")
			one := must[kv.Entry[int]](t)(ns.Put(ctx, "one", 1))
			bad := must[kv.Entry[[]byte]](t)(s.Put(ctx, "n/bad", []byte("secret")))
			got := must[[]kv.Lookup[int]](t)(ns.GetMany(ctx, []string{"none", "one", "bad", "one"}))
			if len(got) != 4 || got[0].Found || got[0].Err != nil || got[0].Key != "none" {
				t.Fatalf("got %+v", got)
			}
			for _, i := range []int{1, 3} {
				if !got[i].Found || got[i].Err != nil || got[i].Value != 1 || got[i].Revision != one.Revision {
					t.Errorf("%d: %+v", i, got[i])
				}
			}
			badValue(t, got[2].Err, "bad", bad.Revision)
			matches(t, "of one key of many", got[2].Err) // as every other error
			if !got[2].Found || got[2].Revision != bad.Revision {
				t.Errorf("undecodable: %+v", got[2])
			}
			if none, err := ns.GetMany(ctx, nil); len(none) != 0 || err != nil {
				t.Errorf("of no keys: %v, %v", none, err)
			}
			// One that does not decode is that entry's error, and the list
			// goes on.
			var keys []string
			for e, err := range ns.List(ctx, "") {
				keys = append(keys, e.Key)
				if e.Key == "bad" {
					badValue(t, err, "bad", bad.Revision)
				} else if err != nil {
					t.Error(err)
				}
			}
			if !slices.Equal(keys, []string{"bad", "one"}) {
				t.Errorf("the list has %q", keys)
			}
			for e, err := range ns.List(ctx, "", kv.KeysOnly()) {
				if err != nil || e.Revision == 0 || e.Value != 0 {
					t.Errorf("keys only: %+v, %v", e, err)
				}
			}
			_, err := ns.Get(ctx, "bad")
			badValue(t, err, "bad", bad.Revision)
			if ok, err := ns.Exists(ctx, "bad"); !ok || err != nil {
				t.Errorf("exists: %v, %v", ok, err)
			}
		})
	}
}

// badValue fails the test unless err is a *codec.Error of that key and
// revision that does not show the value.
func badValue(t testing.TB, err error, key string, rev kv.Revision) {
	t.Helper()
	var bad *codec.Error
	if !errors.As(err, &bad) || bad.Key != key || bad.Revision != uint64(rev) {
		t.Errorf("want a codec error of %q at %d, got %v", key, rev, err)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the value: %v", err)
	}
}

// TestListOptions: pages, and one level of a tree.
func TestListOptions(t *testing.T) {
	ctx := t.Context()
	s, _ := newCounted(t, kv.Prefix("p"))
	for i := range 10 {
		must[kv.Entry[[]byte]](t)(s.Put(ctx, fmt.Sprintf("d/%d/x", i), []byte("v")))
		must[kv.Entry[[]byte]](t)(s.Put(ctx, fmt.Sprintf("d/%d", i), []byte("v")))
	}
	var got []string
	for after := ""; ; {
		page := must[[]kv.Entry[[]byte]](t)(kv.Collect(s.List(ctx, "d", kv.Children(), kv.Limit(3), kv.After(after))))
		for _, e := range page {
			got = append(got, e.Key)
			if e.IsDir() == (e.Revision != 0) {
				t.Errorf("%q at revision %d", e.Key, e.Revision)
			}
		}
		if len(page) < 3 {
			break
		}
		after = page[2].Key
	}
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprintf("d/%d", i), fmt.Sprintf("d/%d/", i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A codec that is missing is told where it is missing, not by the first call.
func TestTypedWithoutCodec(t *testing.T) {
	s, _ := newCounted(t)
	defer func() {
		if recover() == nil {
			t.Error("NewTyped took a nil codec")
		}
	}()
	kv.NewTyped[int](s, nil, "")
}
