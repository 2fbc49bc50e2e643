package kv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

// TestTxn is R27: views, typed and raw, in one step.
func TestTxn(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t, kv.Prefix("p"))
	ns, words := kv.NewTyped(s, codec.JSON[int](), "n"), kv.NewTyped(s.Sub("w"), codec.String(), "en")
	old := must[kv.Entry[int]](t)(ns.Put(ctx, "old", 1))
	before := b.calls.Load()
	tx := s.Txn()
	ns.In(tx).Update("old", 2, old.Revision)
	words.In(tx).Create("hello", "there", kv.TTL(time.Hour))
	s.Sub("raw").In(tx).Put("k", []byte("v"))
	tx.Put("top", []byte("v"))
	tx.Delete("absent") // no failure
	tx.IfAbsent("nobody")
	r, err := tx.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := b.calls.Load() - before; n != 1 {
		t.Errorf("%d calls for one commit", n)
	}
	wantKeys := []string{"p/n/old", "p/w/en/hello", "p/raw/k", "p/top", "p/absent"}
	if len(r.Entries) != len(wantKeys) {
		t.Fatalf("%d entries", len(r.Entries))
	}
	for i, e := range r.Entries {
		if e.Key != wantKeys[i] || e.Value != nil || (e.Revision != r.Revision) != (i == 4) {
			t.Errorf("entry %d is %+v, of revision %d", i, e, r.Revision)
		}
	}
	if e, err := words.Get(ctx, "hello"); err != nil || e.Value != "there" || e.Expires.IsZero() || e.Revision != r.Revision {
		t.Errorf("got %+v, %v", e, err)
	}
	_, err = tx.Commit(ctx)
	matches(t, "committed twice", err, kv.ErrInvalid)
	if r, err := s.Txn().Commit(ctx); err != nil || r.Revision != 0 {
		t.Errorf("an empty transaction: %v, %v", r, err)
	}
}

func TestTxnRefuses(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t)
	other, otherB := newCounted(t)
	unfit := kv.NewTyped(s, codec.JSON[chan int](), "")
	for name, f := range map[string]func(*kv.Txn) error{
		"two writes":           func(tx *kv.Txn) error { tx.Put("k", nil); tx.Delete("//k"); return kv.ErrInvalid },
		"two checks":           func(tx *kv.Txn) error { tx.IfAbsent("k"); tx.IfRevision("k/", 1); return kv.ErrInvalid },
		"a check and a Create": func(tx *kv.Txn) error { tx.IfAbsent("k"); tx.Create("k", nil); return kv.ErrInvalid },
		"two stores":           func(tx *kv.Txn) error { other.In(tx).Put("k", nil); return kv.ErrInvalid },
		"two stores, typed": func(tx *kv.Txn) error {
			kv.NewTyped(other, codec.String(), "").In(tx).Put("k", "v")
			return kv.ErrInvalid
		},
		"65 operations": func(tx *kv.Txn) error {
			tx.IfAbsent("x")
			for i := range 64 {
				tx.Put(strconv.Itoa(i), nil)
			}
			return kv.ErrTooLarge
		},
		"33 Creates, of two operations each": func(tx *kv.Txn) error {
			for i := range 33 {
				tx.Create(strconv.Itoa(i), nil)
			}
			return kv.ErrTooLarge
		},
	} {
		tx := s.Txn()
		tx.Put("good", nil)
		want := f(tx)
		_, err := tx.Commit(ctx)
		matches(t, name, err, want)
		if _, err := tx.Commit(ctx); err == nil {
			t.Errorf("%s: not refused for ever", name)
		}
	}
	tx := s.Txn()
	unfit.In(tx).Put("k", nil)
	if _, err := tx.Commit(ctx); err == nil {
		t.Error("a value that does not encode was committed")
	}
	if n := b.calls.Load() + otherB.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the stores", n)
	}
	tx = s.Txn()
	for i := range 32 { // 64 in all
		tx.Create(strconv.Itoa(i), nil)
	}
	must[kv.TxnResult](t)(tx.Commit(ctx))
}

// TestChecks: the failed check is named, nothing is written, and single writes
// take checks too.
func TestChecks(t *testing.T) {
	ctx := t.Context()
	s, _ := newCounted(t, kv.Prefix("p"))
	there := must[kv.Entry[[]byte]](t)(s.Put(ctx, "there", []byte("v")))
	failed := func(what string, err error, key string, reason error) {
		t.Helper()
		matches(t, what, err, reason)
		var check *kv.CheckError
		if !errors.As(err, &check) || check.Key != key {
			t.Errorf("%s: want a failed check of %s, got %v", what, key, err)
		}
		var e *kv.Error
		if !errors.As(err, &e) || e.Key != key {
			t.Errorf("%s: the error's key is %v", what, e)
		}
		if ok, err := s.Exists(ctx, "new"); ok || err != nil {
			t.Fatalf("%s: something was written: %v, %v", what, ok, err)
		}
	}
	commit := func(f func(*kv.Txn)) error {
		tx := s.Txn()
		tx.Put("new", nil)
		f(tx)
		_, err := tx.Commit(ctx)
		return err
	}
	failed("absent", commit(func(tx *kv.Txn) { tx.IfAbsent("there") }), "p/there", kv.ErrExists)
	failed("present", commit(func(tx *kv.Txn) { tx.IfPresent("none") }), "p/none", kv.ErrNotFound)
	failed("at revision", commit(func(tx *kv.Txn) { tx.IfRevision("there", there.Revision+1) }), "p/there", kv.ErrConflict)
	failed("at revision of none", commit(func(tx *kv.Txn) { tx.IfRevision("none", 1) }), "p/none", kv.ErrConflict)
	failed("create", commit(func(tx *kv.Txn) { tx.Create("there", nil) }), "p/there", kv.ErrExists)
	failed("delete", commit(func(tx *kv.Txn) { tx.Delete("there", kv.IfRevision(99)) }), "p/there", kv.ErrConflict)

	no := kv.Check{If: backend.Absent, Key: "p/there"}
	yes := kv.Check{If: backend.AtRevision, Key: "p/there", Revision: there.Revision}
	failed("put", must1(s.Put(ctx, "new", nil, kv.If(no))), "p/there", kv.ErrExists)
	failed("one of two", must1(s.Put(ctx, "new", nil, kv.If(yes), kv.If(kv.Check{If: backend.Present, Key: "p/x"}))), "p/x", kv.ErrNotFound)
	failed("delete checked", s.Delete(ctx, "there", kv.If(kv.Check{If: backend.Present, Key: "p/x"})), "p/x", kv.ErrNotFound)
	failed("update checked, its own condition", must1(s.Update(ctx, "there", nil, 99, kv.If(kv.Check{If: backend.Absent, Key: "p/x"}))), "p/there", kv.ErrConflict)
	failed("delete checked, absent", s.Delete(ctx, "none", kv.If(yes)), "p/none", kv.ErrNotFound)
	rounds := 0
	_, err := s.Modify(ctx, "new", func(*kv.Entry[[]byte]) error { rounds++; return nil }, kv.Upsert(), kv.If(no))
	failed("modify", err, "p/there", kv.ErrExists)
	if rounds != 1 {
		t.Errorf("a caller's check that failed was tried %d times", rounds)
	}
	e := must[kv.Entry[[]byte]](t)(s.Create(ctx, "new", []byte("v"), kv.If(yes)))
	if got := must[kv.Entry[[]byte]](t)(s.Get(ctx, "new")); got.Revision != e.Revision || string(got.Value) != "v" {
		t.Errorf("got %+v, wrote %+v", got, e)
	}
	if err := s.Delete(ctx, "new", kv.If(yes), kv.IfRevision(e.Revision)); err != nil {
		t.Error(err)
	}
}

// TestConditions: checks of keys that are named as everywhere else, whichever
// view they come from.
func TestConditions(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t, kv.Prefix("p"))
	ns := kv.NewTyped(s, codec.JSON[int](), "n")
	there := must[kv.Entry[int]](t)(ns.Put(ctx, "there", 1))
	none := s.Sub("none")
	for name, c := range map[string]struct {
		check kv.Check
		key   string
		fails error
	}{
		"typed absent":         {ns.Absent("/there/"), "p/n/there", kv.ErrExists},
		"absent":               {s.Absent("n//there"), "p/n/there", kv.ErrExists},
		"absent, holds":        {none.Absent("there"), "", nil},
		"typed present":        {ns.Present("x"), "p/n/x", kv.ErrNotFound},
		"present":              {none.Present("x"), "p/none/x", kv.ErrNotFound},
		"present, holds":       {s.Present("n/there"), "", nil},
		"typed at revision":    {ns.AtRevision("there", there.Revision+1), "p/n/there", kv.ErrConflict},
		"at revision":          {none.AtRevision("there", there.Revision), "p/none/there", kv.ErrConflict},
		"at revision, holds":   {s.AtRevision("n/there", there.Revision), "", nil},
		"typed holds":          {ns.Present("there"), "", nil},
		"absent, typed, holds": {ns.Absent("x"), "", nil},
	} {
		_, put := none.Put(ctx, "k", nil, kv.If(c.check))
		tx := s.Txn()
		tx.If(c.check)
		_, commit := tx.Commit(ctx)
		_, modify := s.Modify(ctx, "m", func(*kv.Entry[[]byte]) error { return nil }, kv.Upsert(), kv.If(c.check))
		for op, err := range map[string]error{"put": put, "commit": commit, "modify": modify} {
			var failed *kv.CheckError
			switch {
			case c.fails == nil && err != nil:
				t.Errorf("%s, %s: %v", name, op, err)
			case c.fails != nil && (!errors.As(err, &failed) || failed.Key != c.key || !errors.Is(err, c.fails)):
				t.Errorf("%s, %s: %v, want %v of %s", name, op, err, c.fails, c.key)
			}
		}
	}

	// What is no key is said by the call that is given the check, before any
	// I/O.
	calls := b.calls.Load()
	bad, portable := s.Sub("\x00"), kv.New(s.Backend(), kv.Portable())
	for name, c := range map[string]struct {
		check kv.Check
		want  error
	}{
		"empty":            {s.Present(""), kv.ErrInvalidKey},
		"slashes":          {ns.Absent("//"), kv.ErrInvalidKey},
		"NUL":              {ns.Present("a\x00"), kv.ErrInvalidKey},
		"not UTF-8":        {s.AtRevision("\xff", 1), kv.ErrInvalidKey},
		"long":             {s.Present(strings.Repeat("k", s.Capabilities().MaxKeyBytes-1)), kv.ErrInvalidKey},
		"bad prefix":       {bad.Present("k"), kv.ErrInvalidKey},
		"bad typed prefix": {kv.NewTyped(s, codec.JSON[int](), "\xff").Absent("k"), kv.ErrInvalidKey},
		"revision 0":       {ns.AtRevision("there", 0), kv.ErrInvalid},
		"not of the store": {kv.Check{If: backend.Present, Key: "/k"}, kv.ErrInvalidKey},
	} {
		matches(t, name+", put", must1(s.Put(ctx, "k", nil, kv.If(c.check))), c.want)
		matches(t, name+", delete", s.Delete(ctx, "k", kv.If(c.check)), c.want)
		_, err := s.Modify(ctx, "k", func(*kv.Entry[[]byte]) error { return nil }, kv.If(c.check))
		matches(t, name+", modify", err, c.want)
		tx := s.Txn()
		tx.If(c.check)
		matches(t, name+", commit", must1(tx.Commit(ctx)), c.want)
	}
	_, err := s.Modify(ctx, "n/there", func(*kv.Entry[[]byte]) error { return nil }, kv.If(ns.Present("there")))
	matches(t, "a second check of the key that is modified", err, kv.ErrInvalid)
	long := strings.Repeat("k", kv.PortableMaxKeyBytes+1)
	matches(t, "too long to be portable", must1(portable.Put(ctx, "k", nil, kv.If(portable.Present(long)))), kv.ErrInvalidKey)
	if n := b.calls.Load() - calls; n != 0 {
		t.Errorf("%d calls reached the store", n)
	}
}

// TestModify: none of a thousand increments is lost.
func TestModify(t *testing.T) {
	s, _ := newCounted(t)
	ns := kv.NewTyped(s, codec.JSON[int](), "n")
	ctx := limited(t)
	var wg sync.WaitGroup
	const goroutines, each = 20, 50
	for range goroutines {
		wg.Go(func() {
			for range each {
				if _, err := ns.Modify(ctx, "k", func(e *kv.Entry[int]) error { e.Value++; return nil }, kv.Upsert()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if e := must[kv.Entry[int]](t)(ns.Get(ctx, "k")); e.Value != goroutines*each {
		t.Errorf("%d of %d increments are there", e.Value, goroutines*each)
	}
}

func TestModifyRules(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t)
	ns := kv.NewTyped(s, codec.JSON[int](), "n")
	inc := func(e *kv.Entry[int]) error { e.Value++; return nil }
	matches(t, "of an absent key", must1(ns.Modify(ctx, "k", inc)), kv.ErrNotFound)
	e := must[kv.Entry[int]](t)(ns.Modify(ctx, "/k", func(e *kv.Entry[int]) error {
		if e.Revision != 0 || e.Key != "k" || e.Value != 0 {
			t.Errorf("an absent key is shown as %+v", e)
		}
		e.Value = 5
		return nil
	}, kv.Upsert(), kv.TTL(time.Hour)))
	if e.Expires.IsZero() || e.Value != 5 || e.Key != "k" {
		t.Errorf("Upsert: %+v", e)
	}
	kept := must[kv.Entry[int]](t)(ns.Modify(ctx, "k", inc))
	if got := must[kv.Entry[int]](t)(ns.Get(ctx, "k")); !got.Expires.Equal(e.Expires) || got.Value != 6 || got != kept {
		t.Errorf("the TTL was not kept: %+v, %+v, was %+v", got, kept, e)
	}
	longer := must[kv.Entry[int]](t)(ns.Modify(ctx, "k", inc, kv.TTL(3*time.Hour)))
	if !longer.Expires.After(e.Expires.Add(time.Hour)) {
		t.Errorf("the TTL was not replaced: %v", longer.Expires)
	}
	if e := must[kv.Entry[int]](t)(ns.Put(ctx, "k", 7)); !e.Expires.IsZero() {
		t.Error("a Put without TTL did not clear it")
	}

	// An error of the function is the caller's again, and nothing is written.
	why := errors.New("not today")
	before := b.calls.Load()
	matches(t, "f's error", must1(ns.Modify(ctx, "k", func(*kv.Entry[int]) error { return why })), why)
	if n := b.calls.Load() - before; n != 1 {
		t.Errorf("%d calls where one read was needed", n)
	}
	bad := must[kv.Entry[[]byte]](t)(s.Put(ctx, "n/bad", []byte("secret")))
	_, err := ns.Modify(ctx, "bad", inc)
	badValue(t, err, "bad", bad.Revision)

	// Applied, and the reply lost: another round would apply it twice.
	rounds := 0
	b.loseReply(kv.OpPut, backend.Because(backend.ErrUncertain, errors.New("connection reset")))
	_, err = ns.Modify(ctx, "k", func(e *kv.Entry[int]) error { rounds++; e.Value++; return nil })
	matches(t, "uncertain", err, kv.ErrUncertain)
	if e := must[kv.Entry[int]](t)(ns.Get(ctx, "k")); rounds != 1 || e.Value != 8 {
		t.Errorf("%d rounds, and %d in the store", rounds, e.Value)
	}
	// Every round loses: the end of the context ends it.
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		must[kv.Entry[[]byte]](t)(s.Put(t.Context(), "k", nil))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		rounds := 0
		_, err := s.Modify(ctx, "k", func(*kv.Entry[[]byte]) error {
			rounds++
			_, err := s.Put(context.Background(), "k", fmt.Append(nil, rounds))
			return err
		})
		matches(t, "never wins", err, context.DeadlineExceeded, kv.ErrConflict)
		if rounds < 100 || rounds > 2000 {
			t.Errorf("%d rounds in a minute", rounds)
		}
	})
}

func TestRetryOnConflict(t *testing.T) {
	ctx := t.Context()
	why := errors.New("another matter")
	for _, tc := range []struct {
		errs []error
		want error
	}{
		{[]error{nil}, nil},
		{[]error{kv.ErrConflict, fmt.Errorf("wrapped: %w", kv.ErrExists), nil}, nil},
		{[]error{kv.ErrConflict, why}, why},
		{[]error{kv.ErrUncertain}, kv.ErrUncertain},
	} {
		calls := 0
		err := kv.RetryOnConflict(ctx, func(context.Context) error { calls++; return tc.errs[calls-1] })
		if !errors.Is(err, tc.want) || calls != len(tc.errs) {
			t.Errorf("%v: %d calls, %v", tc.errs, calls, err)
		}
	}
	cctx, cancel := context.WithCancelCause(ctx)
	err := kv.RetryOnConflict(cctx, func(context.Context) error { cancel(why); return kv.ErrConflict })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || !errors.Is(err, kv.ErrConflict) {
		t.Errorf("with an ended context: %v", err)
	}
}

// whole is err or, if that is nil, what is wrong with a list of one entry.
func whole[E any](es []E, err error) error {
	if err == nil && len(es) != 1 {
		err = fmt.Errorf("%d entries, want 1", len(es))
	}
	return err
}

// tornList is a store whose lists fail after their first entry.
type tornList struct{ backend.Store }

func (s tornList) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for e, err := range s.Store.List(ctx, prefix, o) {
			if !yield(e, err) {
				return
			}
			yield(backend.Entry{}, backend.ErrUnavailable)
			return
		}
	}
}

// TestTornList is R14 and R36: what a loop was given already is not given again.
func TestTornList(t *testing.T) {
	ctx := t.Context()
	_, b := newCounted(t)
	refuseOnce := func(s backend.Store) *kv.Store {
		b.failNext(kv.OpList, backend.ErrUnavailable)
		return kv.New(s)
	}
	for _, k := range []string{"a", "b"} {
		must[backend.Entry](t)(b.Put(ctx, k, nil, backend.PutOptions{}))
	}
	for name, open := range map[string]func() *kv.Store{
		"at once":           func() *kv.Store { return kv.New(tornList{b}) },
		"at the second try": func() *kv.Store { return refuseOnce(tornList{b}) },
	} {
		es, err := kv.Collect(open().List(ctx, ""))
		matches(t, name, err, kv.ErrUnavailable)
		if len(es) != 1 || es[0].Key != "a" {
			t.Errorf("%s: %v", name, es)
		}
		vs, err := kv.Collect(kv.NewTyped(open(), codec.String(), "").List(ctx, ""))
		matches(t, name+", typed", err, kv.ErrUnavailable)
		if len(vs) != 1 || vs[0].Key != "a" {
			t.Errorf("%s, typed: %v", name, vs)
		}
	}
}

// TestRetries is R36: reads are repeated, a few times; writes never.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, b := newCounted(t)
		must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", []byte("v")))
		down := func(n int) (out []error) {
			for range n {
				out = append(out, fmt.Errorf("%w: refused", backend.ErrUnavailable))
			}
			return out
		}
		get := func() error { return must1(s.Get(ctx, "k")) }
		many := func() error { return must1(s.GetMany(ctx, []string{"k"})) }
		list := func() error { return whole(kv.Collect(s.List(ctx, ""))) }
		typedList := func() error { return whole(kv.Collect(kv.NewTyped(s, codec.String(), "").List(ctx, ""))) }
		for _, tc := range []struct {
			name  string
			op    kv.Op
			call  func() error
			fails int
			calls int64
			want  error
		}{
			{"get, once", kv.OpGet, get, 1, 2, nil},
			{"get, twice", kv.OpGet, get, 2, 3, nil},
			{"get, always", kv.OpGet, get, 3, 3, kv.ErrUnavailable},
			{"get many, twice", kv.OpGetMany, many, 2, 3, nil},
			{"get many, always", kv.OpGetMany, many, 3, 3, kv.ErrUnavailable},
			{"list, twice", kv.OpList, list, 2, 3, nil},
			{"list, always", kv.OpList, list, 3, 3, kv.ErrUnavailable},
			{"typed list, twice", kv.OpList, typedList, 2, 3, nil},
			{"put", kv.OpPut, func() error { return must1(s.Put(ctx, "k", nil)) }, 1, 1, kv.ErrUnavailable},
			{"create", kv.OpPut, func() error { return must1(s.Create(ctx, "new", nil)) }, 1, 1, kv.ErrUnavailable},
			{"delete", kv.OpDelete, func() error { return s.Delete(ctx, "k") }, 1, 1, kv.ErrUnavailable},
			{"delete prefix", kv.OpDeletePrefix, func() error { return must1(s.DeletePrefix(ctx, "d")) }, 1, 1, kv.ErrUnavailable},
			{"register", kv.OpRegister, func() error { return must1(s.Register(ctx, "r", nil, time.Minute)) }, 1, 1, kv.ErrUnavailable},
			{"commit", kv.OpCommit, func() error { tx := s.Txn(); tx.Put("k", nil); return must1(tx.Commit(ctx)) }, 1, 1, kv.ErrUnavailable},
		} {
			before := b.calls.Load()
			b.failNext(tc.op, down(tc.fails)...)
			err := tc.call()
			matches(t, tc.name, err, tc.want)
			if tc.want == nil && err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			if n := b.calls.Load() - before; n != tc.calls {
				t.Errorf("%s: %d calls, want %d", tc.name, n, tc.calls)
			}
		}
		// What is not about reaching the store is not repeated.
		before := b.calls.Load()
		b.failNext(kv.OpGet, backend.ErrPermission)
		matches(t, "refused", get(), kv.ErrPermission)
		if n := b.calls.Load() - before; n != 1 {
			t.Errorf("%d calls", n)
		}
		// A context that ends meanwhile is told beside the reason.
		cctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		b.failNext(kv.OpGet, down(1)...)
		matches(t, "with a context that ends", must1(s.Get(cctx, "k")), context.DeadlineExceeded, kv.ErrUnavailable)
	})
}
