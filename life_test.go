package kv_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

// TestRegistration is R29.
func TestRegistration(t *testing.T) {
	const ttl = 10 * time.Second
	for _, by := range []string{"delete", "put", "modify", "recreate", "release", "close", "release, ended context"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := memkv.New(memkv.Options{})
				peer := kv.New(b.Peer()) // another program
				defer peer.Close()
				s := kv.New(b)
				defer s.Close()
				ns := kv.NewTyped(s, codec.JSON[int](), "n")
				ctx, cancel := context.WithCancel(t.Context())
				reg := must[*kv.Registration[int]](t)(ns.Register(ctx, "k", 1, ttl))
				cancel() // bounds the call only
				work := reg.Context(t.Context())
				w := must[*kv.Watch[[]byte]](t)(peer.Watch(t.Context(), ""))
				defer w.Close()

				time.Sleep(20 * ttl)
				e := must[kv.Entry[[]byte]](t)(peer.Get(t.Context(), "n/k"))
				if own := reg.Entry(); own.Key != "k" || own.Value != 1 || own.Revision != e.Revision || reg.Err() != nil || work.Err() != nil {
					t.Fatalf("after 20 TTLs: %+v, the store %+v, %v, %v", own, e, reg.Err(), work.Err())
				}
				if err := reg.Update(t.Context(), 2); err != nil {
					t.Fatal(err)
				}
				if ev := must[kv.Event[[]byte]](t)(w.Next(t.Context())); ev.Kind != kv.Updated || ev.Revision != reg.Entry().Revision {
					t.Errorf("renewals made the event %v; the key is at %d", ev, reg.Entry().Revision)
				}
				time.Sleep(3 * ttl)
				if e, err := ns.Get(t.Context(), "k"); err != nil || e.Value != 2 || reg.Entry().Value != 2 {
					t.Fatalf("after an update: %v, %v", e, err)
				}

				lost, there := true, true
				switch by {
				case "delete":
					there = false
					if err := peer.Delete(t.Context(), "n/k"); err != nil {
						t.Fatal(err)
					}
				case "put":
					must[kv.Entry[[]byte]](t)(peer.Put(t.Context(), "n/k", []byte("9")))
				case "modify":
					must[kv.Entry[[]byte]](t)(peer.Modify(t.Context(), "n/k", func(*kv.Entry[[]byte]) error { return nil }))
				case "recreate":
					if err := peer.Delete(t.Context(), "n/k"); err != nil {
						t.Fatal(err)
					}
					must[kv.Entry[[]byte]](t)(peer.Create(t.Context(), "n/k", []byte("9")))
				case "release":
					lost, there = false, false
					if err := errors.Join(reg.Release(t.Context()), reg.Release(t.Context())); err != nil {
						t.Error(err)
					}
				case "release, ended context":
					lost, there = false, false
					if err := reg.Release(ctx); err != nil && !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					synctest.Wait()
				case "close":
					lost, there = false, false
					if err := s.Close(); err != nil {
						t.Error(err)
					}
					if err := reg.Release(t.Context()); err != nil {
						t.Errorf("release of what Close has released: %v", err)
					}
					matches(t, "update after Close", reg.Update(t.Context(), 3), kv.ErrClosed)
				}
				start := time.Now()
				<-reg.Done()
				if took := time.Since(start); took > ttl {
					t.Errorf("told after %v", took)
				}
				synctest.Wait()
				if got := errors.Is(reg.Err(), kv.ErrLeaseLost); got != lost || !lost && reg.Err() != nil {
					t.Errorf("Err is %v", reg.Err())
				}
				if work.Err() == nil || errors.Is(context.Cause(work), kv.ErrLeaseLost) != lost {
					t.Errorf("its context: %v, cause %v", work.Err(), context.Cause(work))
				}
				if lost {
					matches(t, "update of a lost registration", reg.Update(t.Context(), 3), kv.ErrLeaseLost)
					if err := reg.Release(t.Context()); err != nil {
						t.Errorf("release of a lost registration: %v", err)
					}
				}
				if ok, err := peer.Exists(t.Context(), "n/k"); ok != there || err != nil {
					t.Errorf("exists: %v, %v", ok, err)
				}
			})
		})
	}
}

// TestRegistrationUnreachable: the holder knows before the key goes.
func TestRegistrationUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		var mu sync.Mutex
		b := memkv.New(memkv.Options{})
		peer := kv.New(b.Peer())
		defer peer.Close()
		s := kv.New(b, kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			mu.Lock()
			defer mu.Unlock()
			if down && c.Op == kv.OpRenew {
				return kv.ErrUnavailable
			}
			return next(ctx)
		}))
		defer s.Close()
		reg := must[*kv.Registration[[]byte]](t)(s.Register(t.Context(), "k", nil, 9*time.Second, kv.IfAbsent()))
		time.Sleep(time.Minute)
		mu.Lock()
		down = true
		mu.Unlock()
		<-reg.Done()
		matches(t, "Err", reg.Err(), kv.ErrLeaseLost)
		if ok, err := peer.Exists(t.Context(), "k"); !ok || err != nil {
			t.Errorf("the key went before its holder knew: %v, %v", ok, err)
		}
		time.Sleep(9*time.Second + s.Capabilities().TTLSlack)
		if ok, err := peer.Exists(t.Context(), "k"); ok || err != nil {
			t.Errorf("the key is there after its lease: %v, %v", ok, err)
		}
		must[kv.Entry[[]byte]](t)(s.Put(t.Context(), "k", nil))
		matches(t, "IfAbsent", must1(s.Register(t.Context(), "k", nil, time.Minute, kv.IfAbsent())), kv.ErrExists)
	})
}

// TestClose is R39: everything ends, once, and later calls are ErrClosed.
func TestClose(t *testing.T) {
	ctx := t.Context()
	s := kv.New(memkv.New(memkv.Options{}), kv.Prefix("p"))
	view := s.Sub("v")
	w := must[*kv.Watch[[]byte]](t)(view.Watch(ctx, "", kv.FromSnapshot()))
	reg := must[*kv.Registration[[]byte]](t)(view.Register(ctx, "k", nil, time.Minute))
	if err := view.Close(); err != nil || w.Lossless() != true || reg.Err() != nil {
		t.Errorf("Close of a view did something: %v", err)
	}
	hooked := 0
	remove := must[func()](t)(s.OnClose(func() { t.Error("a hook that was taken back ran") }))
	must[func()](t)(s.OnClose(func() { hooked++ }))
	remove()
	blocked := make(chan error)
	go func() {
		for {
			if _, err := w.Next(context.Background()); err != nil {
				blocked <- err
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	matches(t, "a reader under way", <-blocked, kv.ErrClosed)
	<-reg.Done()
	if hooked != 1 {
		t.Errorf("the hook ran %d times", hooked)
	}
	if err := errors.Join(s.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	for _, s := range []*kv.Store{s, view} {
		for op, call := range calls(ctx, s, "k") {
			if op == "key" || op == "check" { // no I/O; another's key
				continue
			}
			matches(t, op+" after Close", call(), kv.ErrClosed)
		}
		for op, call := range prefixCalls(ctx, s, "k") {
			matches(t, op+" after Close", call(), kv.ErrClosed)
		}
		for op, call := range idleCalls(ctx, s) {
			matches(t, op+" after Close", call(), kv.ErrClosed)
		}
	}
	matches(t, "hook after Close", must1(s.OnClose(func() {})), kv.ErrClosed)
}

// TestContexts is R38: an ended context ends every call, with its cause.
func TestContexts(t *testing.T) {
	s, _ := newCounted(t)
	why := errors.New("the user went home")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for op, call := range calls(ctx, s, "k") {
		if op == "key" || op == "check" {
			continue
		}
		matches(t, op, call(), context.Canceled, why)
	}
	for op, call := range prefixCalls(ctx, s, "k") {
		matches(t, op, call(), context.Canceled, why)
	}
	for op, call := range idleCalls(ctx, s) {
		matches(t, op, call(), context.Canceled, why)
	}
	if es := must[[]kv.Entry[[]byte]](t)(kv.Collect(s.List(t.Context(), ""))); len(es) != 0 {
		t.Errorf("calls with an ended context wrote %v", es)
	}
}

// TestErrors is R35: sentinel and cause, operation and key, and no secret.
func TestErrors(t *testing.T) {
	ctx := t.Context()
	s, b := newCounted(t, kv.Prefix("p"))
	why := errors.New("connection reset by peer")
	for _, tc := range []struct {
		op   kv.Op
		want error
		call func() error
	}{
		{kv.OpPut, kv.ErrUncertain, func() error { return must1(s.Put(ctx, "k", []byte("secret"))) }},
		{kv.OpDelete, kv.ErrPermission, func() error { return s.Delete(ctx, "k") }},
		{kv.OpGet, kv.ErrCorrupt, func() error { return must1(s.Get(ctx, "k")) }},
	} {
		b.failNext(tc.op, backend.Because(tc.want, why))
		err := tc.call()
		matches(t, string(tc.op), err, tc.want, why)
		var e *kv.Error
		if !errors.As(err, &e) || e.Op != tc.op || e.Key != "p/k" || e.Store != "memory" {
			t.Errorf("%s: %+v", tc.op, e)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the value: %v", err)
		}
	}
	big := bytes.Repeat([]byte("secret"), s.Capabilities().MaxValueBytes/6+1)
	_, err := s.Put(ctx, "k", big)
	matches(t, "too large", err, kv.ErrTooLarge)
	if strings.Contains(err.Error(), "secret") || len(err.Error()) > 200 {
		t.Errorf("the error shows the value: %.300s", err)
	}
}

// TestOpen: what cannot be opened is said without the password, wherever that
// stands.
func TestOpen(t *testing.T) {
	drivers := kv.Drivers{boltkv.Driver{}}
	for _, url := range []string{
		"", "nothing", "://u:secret@h", "etcd://u:secret@h/x", "etcd://u:secret@h h/x", "bolt://u:secret@h/x",
		"bolt://u:se%zzcret@h/x", "bolt://u:secret/@h/x", "bolt://u:secret#@h/x", "bolt://u:secret?@h/x",
		"bolt://u:secret@[::1/x", "bolt://u:secret@h:port/x", "bolt:///x?password=secret", "bolt:///%zz?x=secret", "u:secret@h",
		"bolt://u:secret\n@h/x", "bolt://:secret@/x",
	} {
		s, err := drivers.Open(t.Context(), url)
		if err == nil {
			s.Close()
			t.Errorf("%q was opened", url)
			continue
		}
		matches(t, url, err, kv.ErrInvalid)
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	path := "bolt://" + t.TempDir() + "/db"
	matches(t, "a bad prefix", must1(drivers.Open(t.Context(), path, kv.Prefix("\x00"))), kv.ErrInvalidKey)
	for range 2 { // the refused one left no lock on the file, and Close neither
		s := must[*kv.Store](t)(drivers.Open(t.Context(), path))
		must[kv.Entry[[]byte]](t)(s.Put(t.Context(), "k", nil))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestIntercept: every operation passes, the first interceptor outermost.
func TestIntercept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		var mu sync.Mutex
		var seen []string
		note := func(name string) kv.Option {
			return kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
				mu.Lock()
				seen = append(seen, name+" "+string(c.Op)+" "+c.Key)
				mu.Unlock()
				err := next(ctx)
				mu.Lock()
				seen = append(seen, name+" end")
				mu.Unlock()
				return err
			})
		}
		s := kv.New(memkv.New(memkv.Options{}), kv.Prefix("p"), note("outer"), kv.Intercept(nil), note("inner"))
		defer s.Close()
		check := func(what string, f func(), want ...string) {
			t.Helper()
			mu.Lock()
			seen = nil
			mu.Unlock()
			f()
			var calls []string
			mu.Lock()
			defer mu.Unlock()
			for i, line := range seen {
				if op, ok := strings.CutPrefix(line, "outer "); ok && op != "end" {
					calls = append(calls, op)
					if i+1 >= len(seen) || seen[i+1] != "inner "+op {
						t.Errorf("%s: the outer is not around the inner: %q", what, seen)
					}
				}
			}
			if !slices.Equal(calls, want) {
				t.Errorf("%s: %q, want %q", what, calls, want)
			}
		}
		put := func(opts ...kv.WriteOption) { must[kv.Entry[[]byte]](t)(s.Put(ctx, "k", nil, opts...)) }
		check("put", func() { put() }, "put p/k")
		check("fenced put", func() { put(kv.If(kv.Check{If: backend.Present, Key: "p/k"})) }, "put p/k")
		check("get", func() { must[kv.Entry[[]byte]](t)(s.Get(ctx, "k")) }, "get p/k")
		check("get many", func() { must[[]kv.Lookup[[]byte]](t)(s.GetMany(ctx, []string{"a", "b"})) }, "get many p/a")
		check("modify", func() {
			must[kv.Entry[[]byte]](t)(s.Modify(ctx, "k", func(*kv.Entry[[]byte]) error { return nil }))
		}, "modify p/k", "get p/k", "update p/k")
		check("list", func() {
			for range s.List(ctx, "") {
				mu.Lock() // it spans the iteration
				if last := seen[len(seen)-1]; last != "inner list p" {
					t.Errorf("in the loop the last call is %q", last)
				}
				mu.Unlock()
			}
		}, "list p")
		var w *kv.Watch[[]byte]
		check("watch", func() { w = must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d")) }, "watch p/d")
		w.Close()
		check("commit", func() { tx := s.Txn(); tx.Delete("x"); must[kv.TxnResult](t)(tx.Commit(ctx)) }, "commit ")
		var reg *kv.Registration[[]byte]
		check("register", func() { reg = must[*kv.Registration[[]byte]](t)(s.Register(ctx, "r", nil, 9*time.Second)) }, "register p/r")
		check("renewal", func() { time.Sleep(4 * time.Second); synctest.Wait() }, "renew p/r")
		check("update", func() {
			if err := reg.Update(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}, "update p/r")
		check("release", func() {
			if err := reg.Release(ctx); err != nil {
				t.Fatal(err)
			}
		}, "release p/r")
		check("ping", func() {
			if err := s.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}, "ping ")
		check("delete", func() {
			if err := s.Delete(ctx, "k"); err != nil {
				t.Fatal(err)
			}
		}, "delete p/k")
		check("delete prefix", func() { must[int64](t)(s.DeletePrefix(ctx, "")) }, "delete prefix p")
	})
}

// TestInterceptorRefuses: what it turns into a failure leaves nothing behind.
func TestInterceptorRefuses(t *testing.T) {
	why := errors.New("over quota")
	s, _ := newCounted(t, kv.Logger(slog.New(slog.DiscardHandler)), kv.Intercept(
		func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			if err := next(ctx); err != nil || c.Op == kv.OpGet || c.Op == kv.OpRelease {
				return err
			}
			return why
		}))
	matches(t, "watch", must1(s.Watch(t.Context(), "")), why)
	matches(t, "register", must1(s.Register(t.Context(), "k", nil, time.Minute)), why)
	if ok, err := s.Exists(t.Context(), "k"); ok || err != nil {
		t.Errorf("a registration that was refused left its key: %v, %v", ok, err)
	}
}
