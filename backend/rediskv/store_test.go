package rediskv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

const patience = 20 * time.Second

// setup returns a store of its own root on a shared server, and a client for what other programs do there.
func setup(t *testing.T, o rediskv.Options, config ...string) (*rediskv.Store, *redis.Client) {
	t.Helper()
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: config})
	if o.Root == "" {
		o.Root = testserver.UniqueName(t)
	}
	return newStore(t, newClient(t, srv), o), newClient(t, srv)
}

func newStore(t *testing.T, client redis.UniversalClient, o rediskv.Options) *rediskv.Store {
	s := rediskv.New(client, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func put(t *testing.T, s backend.Store, key, value string, o backend.PutOptions) backend.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), o)
	if err != nil {
		t.Fatalf("Put(%q, %+v): %v", key, o, err)
	}
	return e
}

func next(t *testing.T, w backend.Watch) backend.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ev, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return ev
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !f(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("does not happen: %s", what)
		}
	}
}

// TestOtherTypes: SET would destroy a list, and MGET hides it.
func TestOtherTypes(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	if err := other.RPush(t.Context(), root+"/list", "a", "b").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "list", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Get of a list: %v", err)
	}
	for _, o := range []backend.PutOptions{{}, {If: backend.Absent}, {TTL: time.Minute}} {
		if _, err := s.Put(t.Context(), "list", []byte("v"), o); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Put over a list, %+v: %v, want ErrInvalid", o, err)
		}
	}
	_, err := s.Commit(t.Context(), backend.Txn{Writes: []backend.Write{{Key: "x", Value: []byte("v")}, {Key: "list", Value: []byte("v")}}})
	if !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("Commit over a list: %v, want ErrInvalid", err)
	}
	if _, err := s.DeletePrefix(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if n := other.LLen(t.Context(), root+"/list").Val(); n != 2 {
		t.Errorf("the list has %d elements left", n)
	}
	// A key of this library's that another program made a list of is gone, and stays that program's.
	put(t, s, "k", "v", backend.PutOptions{TTL: time.Second})
	other.Del(t.Context(), root+"/k")
	other.RPush(t.Context(), root+"/k", "a")
	if n, err := s.Adopt(t.Context(), ""); n != 1 || err != nil {
		t.Errorf("Adopt = %d, %v, want the one deletion", n, err)
	}
	if n := other.LLen(t.Context(), root+"/k").Val(); n != 1 {
		t.Error("the list is gone")
	}
}

// TestRequests counts round trips: what the documentation says.
func TestRequests(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	s := newStore(t, client, rediskv.Options{Root: testserver.UniqueName(t)})
	ctx := t.Context()
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	var lease backend.Lease
	var held backend.Contender
	list := func(o backend.ListOptions) func() error {
		return func() error {
			for _, err := range s.List(ctx, "l", o) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	fill := func() error {
		for i := 0; i < 2000; {
			var txn backend.Txn
			for range 40 {
				txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("l/%04d", i), Value: value256})
				i++
			}
			if _, err := s.Commit(ctx, txn); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []struct {
		name string
		want int64
		f    func() error
	}{
		// The first use of each script costs one more: the server does not know it yet.
		{"warm up", -1, func() error {
			if _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); err != nil {
				return err
			}
			c, err := s.Contend(ctx, "warm", backend.ContendOptions{})
			if err != nil {
				return err
			}
			for range s.List(ctx, "", backend.ListOptions{}) {
			}
			return c.Release(ctx)
		}},
		{"Ping", 1, func() error { return s.Ping(ctx) }},
		{"Put", 1, func() error { _, err := s.Put(ctx, "k", []byte("v"), backend.PutOptions{}); return err }},
		{"Get", 1, func() error { _, err := s.Get(ctx, "k", backend.GetOptions{}); return err }},
		{"GetMany", 1, func() error { _, err := s.GetMany(ctx, []string{"k", "l"}, backend.GetOptions{}); return err }},
		{"Commit", 1, func() error {
			_, err := s.Commit(ctx, backend.Txn{
				Checks: []backend.Check{{If: backend.Present, Key: "k"}}, Writes: []backend.Write{{Key: "m", Value: []byte("v")}},
			})
			return err
		}},
		{"Delete", 1, func() error { return s.Delete(ctx, "m", backend.DeleteOptions{}) }},
		{"Register", 1, func() (err error) {
			lease, err = s.Register(ctx, "r", nil, backend.RegisterOptions{TTL: time.Hour})
			return err
		}},
		{"Lease.Renew", 1, func() error { return lease.Renew(ctx) }},
		{"Lease.Set", 1, func() error { _, err := lease.Set(ctx, []byte("v")); return err }},
		{"Lease.Release", 1, func() error { return lease.Release(ctx) }},
		{"Contend", 1, func() (err error) {
			held, err = s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
			return err
		}},
		{"Wait of a holder", 0, func() error { return held.Wait(ctx) }},
		{"Contender.Renew", 1, func() error { return held.Renew(ctx) }},
		{"Contender.Release", 1, func() error { return held.Release(ctx) }},
		{"fill", 50, fill},
		{"List of 2,000", 4, list(backend.ListOptions{})}, // the fourth finds that there are no more names
		{"List of 10", 2, list(backend.ListOptions{Limit: 10})},
		{"List of children", 2, list(backend.ListOptions{Children: true, Limit: 10, KeysOnly: true})},
		{"DeletePrefix of 2,000", 9, func() error { _, err := s.DeletePrefix(ctx, "l"); return err }},
	} {
		before := sent.n.Load()
		if err := c.f(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if n := sent.n.Load() - before; n != c.want && c.want >= 0 {
			t.Errorf("%s took %d requests, want %d", c.name, n, c.want)
		}
	}
}

// TestScriptsForgotten: a server forgets scripts at a restart, a failover and SCRIPT FLUSH.
func TestScriptsForgotten(t *testing.T) {
	s, other := setup(t, rediskv.Options{})
	put(t, s, "k", "1", backend.PutOptions{})
	if err := other.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "2", backend.PutOptions{})
}

// TestPatternsInRoot: an unescaped * in a prefix has emptied a database.
func TestPatternsInRoot(t *testing.T) {
	root := testserver.UniqueName(t) + "*[a-z]?\\"
	plain := strings.NewReplacer("*", "xxx", "[a-z]", "b", "?", "c", "\\", "").Replace(root)
	s, other := setup(t, rediskv.Options{Root: root})
	for _, native := range []string{root + "/mine", plain + "/theirs", plain + "\\/theirs"} {
		if err := other.Set(t.Context(), native, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	n, err := s.Adopt(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(t.Context(), "mine", backend.GetOptions{}); err != nil || e.Revision == 0 {
		t.Errorf("Get = %+v, %v after Adopt = %d", e, err, n)
	}
	put(t, s, "*", "v", backend.PutOptions{})
	put(t, s, "x", "v", backend.PutOptions{})
	if n, err := s.DeletePrefix(t.Context(), "*"); n != 0 || err != nil {
		t.Errorf("DeletePrefix(*) = %d, %v", n, err)
	}
	if n, err := s.DeletePrefix(t.Context(), ""); n != 3 || err != nil {
		t.Errorf("DeletePrefix = %d, %v, want 3", n, err)
	}
	if n := other.Exists(t.Context(), plain+"/theirs", plain+"\\/theirs").Val(); n != 2 {
		t.Errorf("%d of two foreign keys are left", n)
	}
}

// TestForeignTTL: another program's EXPIRE and PERSIST are changes (R11), and what it keeps is not reaped.
func TestForeignTTL(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	ctx := t.Context()
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()

	e := put(t, s, "k", "v", backend.PutOptions{})
	other.PExpire(ctx, root+"/k", time.Hour)
	_, err = s.Put(ctx, "k", []byte("v2"), backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
	if !errors.Is(err, backend.ErrConflict) {
		t.Errorf("Put at the revision before a foreign EXPIRE: %v, want ErrConflict", err)
	}
	if e, err = s.Get(ctx, "k", backend.GetOptions{}); err != nil || time.Until(e.Expires) < 50*time.Minute {
		t.Errorf("Get = %+v, %v: not the foreign expiry", e, err)
	}

	put(t, s, "kept", "v", backend.PutOptions{TTL: time.Second})
	other.Persist(ctx, root+"/kept")
	for {
		ev := next(t, w)
		if ev.Key == "kept" && ev.Kind == backend.Deleted {
			t.Fatal("a key that another program keeps was reaped")
		}
		if ev.Key == "kept" && ev.Kind == backend.Updated {
			if !ev.Expires.IsZero() {
				t.Errorf("it still expires at %v", ev.Expires)
			}
			break
		}
	}
	if got := other.Get(ctx, root+"/kept").Val(); got != "v" {
		t.Errorf("it holds %q", got)
	}
}

// TestHistory: the log stays within its bounds, says so, and a write whose predecessor has left it still tells what was
// there before.
func TestHistory(t *testing.T) {
	root := testserver.UniqueName(t)
	for _, c := range []struct {
		name  string
		h     rediskv.History
		value int
	}{
		{"entries", rediskv.History{Entries: 20}, 1000},
		{"bytes", rediskv.History{Bytes: 40_000}, 1000},
		{"bytes of large values", rediskv.History{Bytes: 40_000}, 100_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := root + "/" + strings.ReplaceAll(c.name, " ", "-")
			s, other := setup(t, rediskv.Options{Root: root, History: c.h})
			first := put(t, s, "old", "before", backend.PutOptions{})
			w, err := s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "k", "v", backend.PutOptions{})
			token := next(t, w).Token
			for i := range 200 {
				put(t, s, "k", strings.Repeat("x", c.value+i), backend.PutOptions{})
			}
			if n := other.XLen(t.Context(), root+"=kv/log").Val(); n > 150 || n < 1 {
				t.Errorf("the log has %d entries", n)
			}
			if _, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
				t.Errorf("resuming from what has left the log: %v, want ErrHistoryLost", err)
			}
			if _, err = w.Next(t.Context()); !errors.Is(err, backend.ErrHistoryLost) {
				t.Errorf("a watch that fell behind the log: %v, want ErrHistoryLost", err)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			w, err = s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			put(t, s, "old", "after", backend.PutOptions{})
			if ev := next(t, w); ev.Prev == nil || string(ev.Prev.Value) != "before" || ev.Prev.Revision != first.Revision {
				t.Errorf("the previous entry is %+v, want that of revision %d", ev.Prev, first.Revision)
			}
		})
	}
}

// TestAge: old changes leave the log with later writes.
func TestAge(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root, History: rediskv.History{Age: time.Second}})
	put(t, s, "k", strings.Repeat("x", 20_000), backend.PutOptions{})
	eventually(t, "the first change leaves the log", func() bool {
		put(t, s, "k", strings.Repeat("y", 20_000), backend.PutOptions{})
		log := other.XRangeN(t.Context(), root+"=kv/log", "-", "+", 1).Val()
		return len(log) == 1 && !strings.HasPrefix(log[0].Values["v"].(string), "x")
	})
}

// TestSnapshotBesideWriters: a snapshot is of one moment, though its pages are not.
func TestSnapshotBesideWriters(t *testing.T) {
	for _, c := range []struct {
		name string
		o    rediskv.Options
	}{
		{"small pages", rediskv.Options{WatchBuffer: 2000}},
		{"large pages", rediskv.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := setup(t, c.o)
			ctx := t.Context()
			const n = 1500
			for i := range n {
				put(t, s, fmt.Sprintf("d/%04d", i), "0", backend.PutOptions{})
			}
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for g := range 3 {
				writers.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						key := fmt.Sprintf("d/%04d", (i*37+g*501)%(n+200))
						var err error
						if i%3 == 0 {
							err = s.Delete(ctx, key, backend.DeleteOptions{})
						} else {
							_, err = s.Put(ctx, key, fmt.Appendf(nil, "%d/%d", g, i), backend.PutOptions{})
						}
						if err != nil && !errors.Is(err, backend.ErrNotFound) {
							t.Errorf("writer: %v", err)
							return
						}
					}
				})
			}
			for range 5 {
				o := backend.WatchOptions{Snapshot: true, Prev: true}
				w, err := s.Watch(ctx, "d", o)
				if err != nil {
					t.Fatal(err)
				}
				v := &backendtest.Validator{Prefix: "d", Options: o, Caps: s.Capabilities()}
				v.Begin()
				state := map[string]backend.Revision{}
				for synced, after := false, 0; after < 300; {
					ev := next(t, w)
					if err := v.Observe(ev); err != nil {
						t.Fatal(err)
					}
					switch ev.Kind {
					case backend.Synced:
						synced = true
						for key, rev := range state {
							if rev > ev.Revision {
								t.Fatalf("%q at revision %d stands in the snapshot of %d", key, rev, ev.Revision)
							}
						}
					case backend.Deleted:
						if state[ev.Key] == 0 || ev.Prev == nil || ev.Prev.Revision != state[ev.Key] {
							t.Fatalf("%q deleted, known at %d, before %+v", ev.Key, state[ev.Key], ev.Prev)
						}
						delete(state, ev.Key)
					case backend.Created, backend.Existing:
						if state[ev.Key] != 0 {
							t.Fatalf("%v of %q, which is known at %d", ev.Kind, ev.Key, state[ev.Key])
						}
						state[ev.Key] = ev.Revision
					case backend.Updated:
						if state[ev.Key] == 0 || ev.Prev == nil || ev.Prev.Revision != state[ev.Key] {
							t.Fatalf("%q updated, known at %d, before %+v", ev.Key, state[ev.Key], ev.Prev)
						}
						state[ev.Key] = ev.Revision
					}
					if synced {
						after++
					}
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
			close(stop)
			writers.Wait()
		})
	}
}

// TestPagesAreBounded: large values come in several parts.
func TestPagesAreBounded(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	s := newStore(t, client, rediskv.Options{Root: testserver.UniqueName(t), WatchBuffer: 100_000})
	large := bytes.Repeat([]byte("x"), 10_000)
	for i := range 150 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("k%03d", i), large, backend.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{0, 90} { // by the lengths in the records; by a script
		before, n := sent.n.Load(), 0
		for e, err := range s.List(t.Context(), "", backend.ListOptions{Limit: limit}) {
			if err != nil || len(e.Value) != len(large) {
				t.Fatalf("%q: %d bytes, %v", e.Key, len(e.Value), err)
			}
			n++
		}
		if parts := sent.n.Load() - before; parts < int64(n)/20 {
			t.Errorf("%d values of 10 kB came in %d parts, with 100 kB wanted at most", n, parts)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	put(t, s, "k", "v", backend.PutOptions{})
	other.HSet(t.Context(), root+"=kv/head", "schema", "2")
	if _, err := s.Put(t.Context(), "k", []byte("v2"), backend.PutOptions{}); !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("Put: %v, want ErrNewerSchema", err)
	}
	fresh, _ := setup(t, rediskv.Options{Root: root})
	if _, err := fresh.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("Get of a new store: %v, want ErrNewerSchema", err)
	}
	if got := other.Get(t.Context(), root+"/k").Val(); got != "v" {
		t.Errorf("it holds %q", got)
	}
}

// TestFullMemory: a server without memory refuses a write as a whole.
func TestFullMemory(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{"maxmemory 8mb", "maxmemory-policy noeviction"}})
	s := newStore(t, newClient(t, srv), rediskv.Options{Root: "r", History: rediskv.History{Bytes: 1 << 20}})
	var last int
	for i := range 10_000 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("k%05d", i), bytes.Repeat([]byte("x"), 10_000), backend.PutOptions{}); err != nil {
			if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
				t.Fatalf("Put: %v, want ErrUnavailable", err)
			}
			last = i
			break
		}
	}
	if last == 0 {
		t.Fatal("the memory is never full")
	}
	n := 0
	for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != last {
		t.Errorf("%d keys after %d successful writes", n, last)
	}
	if n, err := s.Adopt(t.Context(), ""); err == nil && n != 0 {
		t.Errorf("the refused write left something: Adopt = %d", n)
	}
}

// TestWhatIsNotAskedFor: a watch does not read the log for other keys, nor for renewals.
func TestWhatIsNotAskedFor(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	o := rediskv.Options{Root: testserver.UniqueName(t)}
	watcher, writer := newStore(t, client, o), newStore(t, newClient(t, srv), o)
	ctx := t.Context()
	w, err := watcher.Watch(ctx, "mine", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	events := make(chan backend.Event)
	go func() {
		defer close(events)
		for {
			ev, err := w.Next(ctx)
			if err != nil {
				return
			}
			events <- ev
		}
	}()
	put(t, writer, "mine/first", "v", backend.PutOptions{})
	<-events // the tail is up, or has just looked
	eventually(t, "messages are heard", func() bool {
		put(t, writer, "mine/first", "v", backend.PutOptions{})
		start := time.Now()
		<-events
		return time.Since(start) < 100*time.Millisecond
	})
	lease, err := writer.Register(ctx, "theirs/leased", nil, backend.RegisterOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	before := sent.n.Load()
	for i := range 100 {
		put(t, writer, fmt.Sprintf("theirs/%d", i), "v", backend.PutOptions{})
		if err := lease.Renew(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put(t, writer, "mine/last", "v", backend.PutOptions{})
	if ev := <-events; ev.Key != "mine/last" {
		t.Errorf("event of %q", ev.Key)
	}
	if n := sent.n.Load() - before; n > 20 {
		t.Errorf("200 changes of no concern cost %d requests", n)
	}
}
