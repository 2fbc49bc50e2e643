package memkv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, o memkv.Options) *memkv.Store {
	s := memkv.New(o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t testing.TB, s *memkv.Store, key, value string, o backend.PutOptions) backend.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), o)
	if err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
	return e
}

func watch(t testing.TB, s *memkv.Store, prefix string, o backend.WatchOptions) backend.Watch {
	t.Helper()
	w, err := s.Watch(t.Context(), prefix, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// show is an event in short: kind, key, value, previous value, revision.
func show(ev backend.Event) string {
	s := fmt.Sprintf("%s %s %q @%d", ev.Kind, ev.Key, ev.Value, ev.Revision)
	if ev.Prev != nil {
		s += fmt.Sprintf(" was %q @%d", ev.Prev.Value, ev.Prev.Revision)
	}
	return s
}

func want(t testing.TB, w backend.Watch, lines ...string) (last backend.Event) {
	t.Helper()
	for i, line := range lines {
		ev, err := w.Next(t.Context())
		if err != nil {
			t.Fatalf("event %d: %v; want %s", i, err, line)
		}
		if got := show(ev); got != line {
			t.Fatalf("event %d: got %s; want %s", i, got, line)
		}
		last = ev
	}
	return last
}

// R28: not a moment too early, not a moment too late, and with an event (R24).
func TestTTLUnderSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memkv.Options{})
		w := watch(t, s, "a", backend.WatchOptions{Prev: true})
		start := time.Now()
		e := put(t, s, "a/x", "1", backend.PutOptions{TTL: 1500 * time.Millisecond})
		if d := e.Expires.Sub(start); d < 1500*time.Millisecond || d > 1501*time.Millisecond {
			t.Errorf("expires after %v", d)
		}
		time.Sleep(1499 * time.Millisecond)
		if _, err := s.Get(t.Context(), "a/x", backend.GetOptions{}); err != nil {
			t.Errorf("gone too early: %v", err)
		}
		want(t, w, `created a/x "1" @2`, `deleted a/x "" @3 was "1" @2`)
		if d := time.Since(start); d != e.Expires.Sub(start) {
			t.Errorf("delete event after %v", d)
		}
		if _, err := s.Get(t.Context(), "a/x", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("Get of an expired key: %v", err)
		}
	})
}

// R28: a put without TTL clears it, one at a revision may keep it.
func TestTTLClearedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memkv.Options{})
		put(t, s, "cleared", "1", backend.PutOptions{TTL: time.Second})
		put(t, s, "cleared", "2", backend.PutOptions{})
		e := put(t, s, "kept", "1", backend.PutOptions{TTL: time.Second})
		kept := put(t, s, "kept", "2", backend.PutOptions{If: backend.AtRevision, Revision: e.Revision, KeepTTL: true})
		if !kept.Expires.Equal(e.Expires) {
			t.Errorf("KeepTTL: expires %v, before %v", kept.Expires, e.Expires)
		}
		time.Sleep(2 * time.Second)
		got, err := s.GetMany(t.Context(), []string{"cleared", "kept"}, backend.GetOptions{})
		if err != nil || got[0].Revision == 0 || got[1].Revision != 0 {
			t.Errorf("after the TTL: %v, %v", got, err)
		}
	})
}

// R29: renewals keep a key without an event, and a key that is not renewed goes.
func TestLeaseUnderSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memkv.Options{})
		w := watch(t, s, "", backend.WatchOptions{})
		l, err := s.Register(t.Context(), "me", []byte("1"), backend.RegisterOptions{TTL: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(2 * time.Second)
			if err := l.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Set(t.Context(), []byte("2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		if err := l.Renew(t.Context()); !errors.Is(err, backend.ErrLeaseLost) {
			t.Errorf("Renew after the end: %v", err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("Release of a lost lease: %v", err)
		}
		want(t, w, `created me "1" @2`, `updated me "2" @3`, `deleted me "" @4`)
	})
}

// R31, R32: a contender that is not renewed loses its place to the next, and
// its check no longer holds.
func TestContenderExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memkv.Options{})
		contend := func() backend.Contender {
			c, err := s.Contend(t.Context(), "lock", backend.ContendOptions{Lease: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		a, b := contend(), contend()
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			if err := b.Renew(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("admitted after %v", d)
		}
		select {
		case <-a.Lost():
		default:
			t.Error("Lost is open")
		}
		if b.Token() <= a.Token() {
			t.Errorf("tokens %d, %d", a.Token(), b.Token())
		}
		_, err := s.Commit(t.Context(), backend.Txn{
			Checks: []backend.Check{b.Check(), a.Check()},
			Writes: []backend.Write{{Key: "k"}},
		})
		var failed *backend.CheckError
		if !errors.As(err, &failed) || failed.Index != 1 || !errors.Is(err, backend.ErrLockLost) {
			t.Errorf("Commit under a lost lock: %v", err)
		}
		if err := b.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// R23: a reader that does not come loses its history, not the store its
// memory; what it does not cover does no harm.
func TestRingIsBounded(t *testing.T) {
	s := open(t, memkv.Options{WatchBuffer: 16 << 10})
	slow := watch(t, s, "busy", backend.WatchOptions{})
	quiet := watch(t, s, "quiet", backend.WatchOptions{})
	put(t, s, "quiet/1", "a", backend.PutOptions{})
	want(t, quiet, `created quiet/1 "a" @2`)
	for i := range 100 {
		put(t, s, "busy/x", fmt.Sprintf("%01024d", i), backend.PutOptions{})
	}
	put(t, s, "quiet/1", "b", backend.PutOptions{})
	want(t, quiet, `updated quiet/1 "b" @103`)
	for range 2 {
		if _, err := slow.Next(t.Context()); !errors.Is(err, backend.ErrHistoryLost) {
			t.Errorf("Next of a reader that was too slow: %v", err)
		}
	}
}

// R21: every token resumes after its event, within a transaction too.
func TestResumeWithinTransaction(t *testing.T) {
	s := open(t, memkv.Options{})
	w := watch(t, s, "a", backend.WatchOptions{})
	_, err := s.Commit(t.Context(), backend.Txn{Writes: []backend.Write{
		{Key: "b/1"}, {Key: "a/1"}, {Key: "a/2"}, {Key: "b/2"}, {Key: "a/3"}, {Key: "b/3"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a/4", "", backend.PutOptions{})
	lines := []string{`created a/1 "" @2`, `created a/2 "" @2`, `created a/3 "" @2`, `created a/4 "" @3`}
	for i := range lines {
		token := want(t, w, lines[i]).Token
		want(t, watch(t, s, "a", backend.WatchOptions{Resume: token}), lines[i+1:]...)
		if _, err := s.Watch(t.Context(), "b", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("token of another prefix: %v", err)
		}
		if _, err := open(t, memkv.Options{}).Watch(t.Context(), "a", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
			t.Errorf("token of another store: %v", err)
		}
	}
}

// R16: writes during a List do not show in it, and none waits for it.
func TestListIsSnapshot(t *testing.T) {
	s := open(t, memkv.Options{})
	for i := range 500 {
		put(t, s, fmt.Sprintf("k/%03d", i), "old", backend.PutOptions{})
	}
	n := 0
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil || string(e.Value) != "old" {
			t.Fatalf("%v, %v", e, err)
		}
		if n++; n == 1 {
			if _, err := s.DeletePrefix(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			put(t, s, "k/000a", "new", backend.PutOptions{})
		}
	}
	if n != 500 {
		t.Errorf("listed %d keys", n)
	}
}

// R14: direct children, and the names of deeper directories, with After.
func TestListChildren(t *testing.T) {
	s := open(t, memkv.Options{})
	for _, k := range []string{"a", "a/b", "a/b/c", "a/b-", "a/b0", "a/d/e/f", "a/d/g", "ab", "z"} {
		put(t, s, k, "", backend.PutOptions{})
	}
	list := func(prefix, after string, limit int) (names []string) {
		for e, err := range s.List(t.Context(), prefix, backend.ListOptions{Children: true, After: after, Limit: limit}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.IsDir() != (e.Revision == 0) {
				t.Errorf("%q has revision %d", e.Key, e.Revision)
			}
			names = append(names, e.Key)
		}
		return names
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 0, "[a a/ ab z]"},
		{"", "a", 0, "[a/ ab z]"},
		{"", "a/", 0, "[ab z]"},
		{"", "a/b/c", 0, "[ab z]"},
		{"a", "", 0, "[a/b a/b- a/b/ a/b0 a/d/]"},
		{"a", "", 3, "[a/b a/b- a/b/]"},
		{"a", "a", 0, "[a/b a/b- a/b/ a/b0 a/d/]"},
		{"a", "a/", 0, "[a/b a/b- a/b/ a/b0 a/d/]"},
		{"a", "a/b/", 0, "[a/b0 a/d/]"},
		{"a", "a/d/", 0, "[]"},
		{"a", "b", 0, "[]"},
		{"q", "", 0, "[]"},
	} {
		if got := fmt.Sprint(list(c.prefix, c.after, c.limit)); got != c.want {
			t.Errorf("children of %q after %q, at most %d: %s, want %s", c.prefix, c.after, c.limit, got, c.want)
		}
	}
}

// R19: Next is ended by its own context alone, and the stream by the other.
func TestContexts(t *testing.T) {
	s := open(t, memkv.Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	call, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if _, err := w.Next(call); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next with an ended context: %v", err)
	}
	put(t, s, "k", "", backend.PutOptions{})
	want(t, w, `created k "" @2`)
	why := errors.New("enough")
	cancel(why)
	if _, err := w.Next(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("Next of an ended stream: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// R39: Close ends what is open, and later calls are refused.
func TestClose(t *testing.T) {
	s := memkv.New(memkv.Options{})
	put(t, s, "k", "", backend.PutOptions{TTL: time.Hour})
	w := watch(t, s, "", backend.WatchOptions{})
	c, err := s.Contend(t.Context(), "lock", backend.ContendOptions{Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Contend(t.Context(), "lock", backend.ContendOptions{Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	observed := make(chan error)
	go func() {
		for _, err := range s.Holders(t.Context(), "lock") {
			if err != nil {
				observed <- err
			}
		}
	}()
	waited := make(chan error)
	go func() { waited <- d.Wait(t.Context()) }()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	_, nextErr := w.Next(t.Context())
	_, getErr := s.Get(t.Context(), "k", backend.GetOptions{})
	_, putErr := s.Put(t.Context(), "k", nil, backend.PutOptions{})
	_, watchErr := s.Watch(t.Context(), "k", backend.WatchOptions{})
	for i, err := range []error{
		<-observed, <-waited, nextErr, getErr, putErr, watchErr,
		c.Renew(t.Context()), s.Ping(t.Context()),
	} {
		if !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
