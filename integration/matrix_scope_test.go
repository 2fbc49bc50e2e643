package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/lock"
)

// over gives the store of s's driver another kv layer, with options. It is not closed: the driver's store belongs to s.
func over(s *kv.Store, opts ...kv.Option) *kv.Store { return kv.New(s.Backend(), opts...) }

// TestScopes keeps programs that share a store apart: each sees its own keys, under its own names, in every call.
func TestScopes(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		whole := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		foo, foobar := over(whole, kv.Prefix("/foo//")), over(whole, kv.Prefix("foobar"))
		deep := foo.Sub("a/b").Sub("/c/")
		w := ok[*kv.Watch[[]byte]](t)(foo.Watch(ctx, "a"))
		defer w.Close()
		for s, keys := range map[*kv.Store][]string{
			whole: {"foo", "fo", "foobar", "foo-", "foo.x"}, foo: {"a", "a/b", "x"}, foobar: {"a/other"}, deep: {"k", "d/e"},
		} {
			for _, key := range keys {
				ok[kv.Entry[[]byte]](t)(s.Put(ctx, key, []byte(key)))
			}
		}
		for name, c := range map[string]struct {
			s      *kv.Store
			prefix string
			want   []string
		}{
			"foo":            {foo, "", []string{"a", "a/b", "a/b/c/d/e", "a/b/c/k", "x"}},
			"foo/a":          {foo, "a/", []string{"a/b", "a/b/c/d/e", "a/b/c/k"}},
			"foobar":         {foobar, "", []string{"a/other"}},
			"deep":           {deep, "", []string{"d/e", "k"}},
			"deep/d":         {deep, "d", []string{"d/e"}},
			"whole, foo":     {whole, "foo", []string{"foo/a", "foo/a/b", "foo/a/b/c/d/e", "foo/a/b/c/k", "foo/x"}},
			"whole, fo":      {whole, "fo", nil},
			"nothing at all": {foo, "never/there", nil},
		} {
			if got := keysOf(t, c.s.List(ctx, c.prefix)); !slices.Equal(got, c.want) {
				t.Errorf("%s lists %q, want %q", name, got, c.want)
			}
		}
		if full := ok[string](t)(deep.Key("/k//")); full != "foo/a/b/c/k" {
			t.Errorf("the driver's key is %q", full)
		}
		// The watch has the keys of its own view only, and under the view's names.
		seen := map[string]bool{}
		for len(seen) < 3 {
			ev := ok[kv.Event[[]byte]](t)(w.Next(ctx))
			seen[ev.Key] = true
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, []string{"a/b", "a/b/c/d/e", "a/b/c/k"}) {
			t.Errorf("the watch saw %q", got)
		}
		// What is not there is an error of the view's key, as the driver sees it.
		_, err := deep.Get(ctx, "none")
		if e := (*kv.Error)(nil); !errors.As(err, &e) || e.Key != "foo/a/b/c/none" || !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("get of a missing key: %v", err)
		}
		if err := foo.Sub("a/b").Close(); err != nil { // a view has no life of its own
			t.Error(err)
		}
		// "" is everything in a view, and refused for a whole store.
		if _, err := whole.DeletePrefix(ctx, ""); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("delete of a whole store: %v", err)
		}
		if n, err := foo.DeletePrefix(ctx, ""); n != 5 || err != nil {
			t.Errorf("delete of a view: %d, %v", n, err)
		}
		if got, want := keysOf(t, whole.List(ctx, "")), []string{"fo", "foo", "foo-", "foo.x", "foobar", "foobar/a/other"}; !slices.Equal(got, want) {
			t.Errorf("left are %q, want %q", got, want)
		}
		// Locks are scoped as keys are, and are no keys.
		held := ok[*lock.Held](t)(lock.TryLock(ctx, foo, "name"))
		other := ok[*lock.Held](t)(lock.TryLock(ctx, foobar, "name"))
		if _, err := lock.TryLock(ctx, whole, "foo/name"); !errors.Is(err, kv.ErrLocked) {
			t.Errorf("the same lock by its full name: %v", err)
		}
		if got := keysOf(t, foo.List(ctx, "")); len(got) != 0 {
			t.Errorf("a lock is listed: %q", got)
		}
		if err := errors.Join(held.Unlock(ctx), other.Unlock(ctx)); err != nil {
			t.Error(err)
		}
	})
}

func keysOf(t testing.TB, seq func(func(kv.Entry[[]byte], error) bool)) (keys []string) {
	t.Helper()
	for e, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, e.Key)
	}
	return keys
}

// TestListing restricts lists in every way there is, with each other, through pages.
func TestListing(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, ctx := open(t), t.Context()
		view := s.Sub("v")
		tx := s.Txn()
		keys := []string{"b", "b-c", "b.d", "b/e", "b/e/f", "b0", "c/d/e", "é", "😀/x"}
		for _, key := range keys {
			view.In(tx).Put(key, []byte("value of "+key))
		}
		last := ok[kv.TxnResult](t)(tx.Commit(ctx)).Revision
		for name, c := range map[string]struct {
			prefix string
			opts   []kv.ListOption
			want   []string
		}{
			"all":                  {"", nil, keys},
			"limit":                {"", []kv.ListOption{kv.Limit(3)}, keys[:3]},
			"a limit beyond":       {"", []kv.ListOption{kv.Limit(1000)}, keys},
			"after":                {"", []kv.ListOption{kv.After("b/e")}, keys[4:]},
			"after a missing key":  {"", []kv.ListOption{kv.After("b/a")}, keys[3:]},
			"after the last":       {"", []kv.ListOption{kv.After("😀/x")}, nil},
			"after, limit":         {"", []kv.ListOption{kv.After("b"), kv.Limit(2)}, keys[1:3]},
			"below":                {"b", nil, []string{"b/e", "b/e/f"}},
			"below, after":         {"b", []kv.ListOption{kv.After("b/e")}, []string{"b/e/f"}},
			"children":             {"", []kv.ListOption{kv.Children()}, []string{"b", "b-c", "b.d", "b/", "b0", "c/", "é", "😀/"}},
			"children, after":      {"", []kv.ListOption{kv.Children(), kv.After("b/")}, []string{"b0", "c/", "é", "😀/"}},
			"children, limit":      {"", []kv.ListOption{kv.Children(), kv.Limit(4)}, []string{"b", "b-c", "b.d", "b/"}},
			"children below":       {"b", []kv.ListOption{kv.Children()}, []string{"b/e", "b/e/"}},
			"children of a key":    {"b0", []kv.ListOption{kv.Children()}, nil},
			"stale, not too stale": {"", []kv.ListOption{kv.Stale(), kv.AtLeast(last)}, keys},
		} {
			for _, only := range []bool{false, true} {
				opts := slices.Clone(c.opts)
				if only {
					opts = append(opts, kv.KeysOnly())
				}
				var got []string
				for e, err := range view.List(ctx, c.prefix, opts...) {
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					got = append(got, e.Key)
					want := "value of " + e.Key
					if only || e.IsDir() {
						want = ""
					}
					if string(e.Value) != want || e.IsDir() != (e.Revision == 0) {
						t.Errorf("%s: %q has %q at %d", name, e.Key, e.Value, e.Revision)
					}
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("%s: got %q, want %q", name, got, c.want)
				}
			}
		}
		// Pages of two, with directories, come to the same as all at once.
		for _, opts := range [][]kv.ListOption{nil, {kv.Children()}} {
			want := keysOf(t, view.List(ctx, "", opts...))
			var got []string
			for after := ""; ; {
				page := keysOf(t, view.List(ctx, "", append(opts[:len(opts):len(opts)], kv.Limit(2), kv.After(after))...))
				if got = append(got, page...); len(page) < 2 {
					break
				}
				after = page[1]
			}
			if !slices.Equal(got, want) {
				t.Errorf("pages: %q, want %q", got, want)
			}
		}
		// GetMany has an answer for each key, in the order of the request, more than one answer of a store holds.
		ask := append(slices.Clone(keys), "none", "b", "/b/")
		for i := range 150 {
			ask = append(ask, fmt.Sprint("none/", i))
		}
		found := ok[[]kv.Lookup[[]byte]](t)(view.GetMany(ctx, ask, kv.AtLeast(last)))
		for i, l := range found {
			want := strings.Trim(ask[i], "/")
			if l.Key != want || l.Found != slices.Contains(keys, want) || l.Found && string(l.Value) != "value of "+want {
				t.Errorf("%q: %+v", ask[i], l)
			}
		}
		if len(found) != len(ask) {
			t.Errorf("%d answers for %d keys", len(found), len(ask))
		}
	})
}

// TestPortableEverywhere holds each store to the limits of all: what is written under them goes, and what is over them is
// refused before the store is asked.
func TestPortableEverywhere(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		whole, ctx := open(t), t.Context()
		var calls []kv.Op
		var mu sync.Mutex
		s := over(whole, kv.Portable(), kv.Prefix("p"), kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, c.Op)
			return next(ctx)
		}))
		if c := s.Capabilities(); c.MaxKeyBytes != kv.PortableMaxKeyBytes || c.MaxValueBytes != kv.PortableMaxValueBytes ||
			c.MaxTxnBytes != kv.PortableMaxTxnBytes || c.MinLease != kv.PortableMinLease {
			t.Errorf("the capabilities say %+v", c)
		}
		// The largest there may be, with a key full of what stores have to escape.
		longest := strings.Repeat("😀\x01", kv.PortableMaxKeyBytes/5)
		longest = longest[:len(longest)-len("p/")]
		longest = strings.ToValidUTF8(longest, "")
		value := make([]byte, kv.PortableMaxValueBytes)
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, "k", value))
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, strings.Repeat("k", kv.PortableMaxKeyBytes-len("p/")), nil))
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, longest, []byte("v")))
		if e, err := s.Get(ctx, longest); err != nil || e.Key != longest {
			t.Errorf("the longest key: %v", err)
		}
		tx := s.Txn()
		for i := range 64 { // together as much as there may be, keys included
			tx.Put(fmt.Sprintf("t/%02d", i), value[:kv.PortableMaxTxnBytes/64-8])
		}
		ok[kv.TxnResult](t)(tx.Commit(ctx))

		mu.Lock()
		calls = nil
		mu.Unlock()
		tx = s.Txn()
		tx.Put("a", value[:kv.PortableMaxTxnBytes/2])
		tx.Put("b", value[:kv.PortableMaxTxnBytes/2])
		_, commit := tx.Commit(ctx)
		_, put := s.Put(ctx, "k", append(value, 0))
		_, register := s.Register(ctx, "k", append(value, 0), time.Minute)
		for what, err := range map[string]error{"put": put, "register": register, "commit": commit} {
			if !errors.Is(err, kv.ErrTooLarge) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := s.Put(ctx, strings.Repeat("k", kv.PortableMaxKeyBytes), nil); !errors.Is(err, kv.ErrInvalidKey) {
			t.Errorf("a key that is too long: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(calls) > 0 {
			t.Errorf("these calls went on: %q", calls)
		}
	})
}

// TestInterceptorSeesEverything: each operation passes, with its full key, and what the interceptor refuses does not happen.
func TestInterceptorSeesEverything(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		whole, ctx := open(t), t.Context()
		var mu sync.Mutex
		var seen []string
		var refuse error
		s := over(whole, kv.Prefix("p"), kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			mu.Lock()
			seen = append(seen, string(c.Op)+" "+c.Key)
			why := refuse
			mu.Unlock()
			if why != nil {
				return why
			}
			return next(ctx)
		}))
		typed := kv.NewTyped(s, codec.String(), "t")
		var reg *kv.Registration[string]
		var held *lock.Held
		steps := []struct {
			name string
			do   func() error
			want []string
		}{
			{"ping", func() error { return s.Ping(ctx) }, []string{"ping "}},
			{"put", func() error { _, err := typed.Put(ctx, "k", "v"); return err }, []string{"put p/t/k"}},
			{"create", func() error { _, err := typed.Create(ctx, "new", "v"); return err }, []string{"create p/t/new"}},
			{"get", func() error { _, err := typed.Get(ctx, "k"); return err }, []string{"get p/t/k"}},
			{"get many", func() error { _, err := typed.GetMany(ctx, []string{"k", "l"}); return err }, []string{"get many p/t/k"}},
			{"exists", func() error { _, err := s.Exists(ctx, "k"); return err }, []string{"get p/k"}},
			{"modify", func() error {
				_, err := typed.Modify(ctx, "k", func(*kv.Entry[string]) error { return nil })
				return err
			}, []string{"modify p/t/k", "get p/t/k", "update p/t/k"}},
			{"list", func() error { _, err := kv.Collect(typed.List(ctx, "")); return err }, []string{"list p/t"}},
			{"watch", func() error {
				w, err := typed.Watch(ctx, "d")
				if err == nil {
					err = w.Close()
				}
				return err
			}, []string{"watch p/t/d"}},
			{"commit", func() error { tx := s.Txn(); tx.Put("x", nil); _, err := tx.Commit(ctx); return err }, []string{"commit "}},
			{"register", func() error { r, err := typed.Register(ctx, "r", "v", time.Hour); reg = r; return err }, []string{"register p/t/r"}},
			{"update", func() error { return reg.Update(ctx, "w") }, []string{"update p/t/r"}},
			{"release", func() error { return reg.Release(ctx) }, []string{"release p/t/r"}},
			// A place in the queue, and admission.
			{"lock", func() error { h, err := lock.TryLock(ctx, s, "l", lock.Lease(time.Hour)); held = h; return err }, []string{"lock p/l", "lock p/l"}},
			{"unlock", func() error { return held.Unlock(ctx) }, []string{"unlock p/l"}},
			{"delete", func() error { return typed.Delete(ctx, "new") }, []string{"delete p/t/new"}},
			{"delete prefix", func() error { _, err := s.DeletePrefix(ctx, ""); return err }, []string{"delete prefix p"}},
		}
		for _, step := range steps {
			mu.Lock()
			seen = nil
			mu.Unlock()
			if err := step.do(); err != nil {
				t.Errorf("%s: %v", step.name, err)
				continue
			}
			mu.Lock()
			if !slices.Equal(seen, step.want) {
				t.Errorf("%s: the interceptor saw %q, want %q", step.name, seen, step.want)
			}
			mu.Unlock()
		}
		// Refused before the store is asked: every call ends with that error, and nothing was written.
		mu.Lock()
		refuse = errors.New("over quota")
		mu.Unlock()
		for op, do := range everyCall {
			if err := do(ctx, s); !errors.Is(err, refuse) {
				t.Errorf("%s, refused: %v", op, err)
			}
		}
		if got := keysOf(t, whole.List(ctx, "")); len(got) != 0 {
			t.Errorf("refused calls wrote %q", got)
		}
	})
}

// TestCapabilityOfOneStore: what a store cannot do is refused before anything is written, and what it can do is not.
func TestCapabilityOfOneStore(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c := s.Capabilities()
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, "a", []byte("1")))
		w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
		defer w.Close()
		if w.Lossless() != c.Lossless {
			t.Errorf("the watch is lossless: %v, the store %v", w.Lossless(), c.Lossless)
		}
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, "a", []byte("2")))
		ev := ok[kv.Event[[]byte]](t)(w.Next(ctx))
		if !c.Resumable {
			if ev.Token != "" {
				t.Errorf("a token %q of a store that cannot resume", ev.Token)
			}
			_, err := s.Watch(ctx, "", kv.Resume(backend.Token("any")))
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("resume: %v", err)
			}
			return
		}
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, "a", []byte("3")))
		again := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "", kv.Resume(ev.Token)))
		defer again.Close()
		if ev := ok[kv.Event[[]byte]](t)(again.Next(ctx)); string(ev.Value) != "3" {
			t.Errorf("resumed at %q", ev.Value)
		}
		if _, err := s.Watch(ctx, "elsewhere", kv.Resume(ev.Token)); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("a token of another prefix: %v", err)
		}
	})
}
