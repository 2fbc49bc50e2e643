package consulkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

// fixture is a store on the shared server, beside a plain client.
type fixture struct {
	*testing.T
	net  *network
	s    *consulkv.Store
	root string
	kv   *api.Client
	addr string
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, net: new(network), root: testserver.UniqueName(t)}
	f.addr = servers.Shared(t, testserver.Spec{Store: testserver.Consul}).Addrs()[0]
	f.s = f.net.open(t, f.addr, f.root)
	f.Cleanup(func() { f.s.Close() })
	client, err := api.NewClient(&api.Config{Address: f.addr, HttpClient: new(network).client(t)})
	f.noErr(err)
	f.kv = client
	return f
}

func (f *fixture) noErr(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(err error, want ...error) {
	f.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			f.Fatalf("got error %v, want %v", err, w)
		}
	}
}

func (f *fixture) put(key, value string, o backend.PutOptions) backend.Entry {
	f.Helper()
	e, err := f.s.Put(f.Context(), key, []byte(value), o)
	f.noErr(err)
	return e
}

func (f *fixture) next(w backend.Watch) backend.Event {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 10*time.Second)
	defer cancel()
	ev, err := w.Next(ctx)
	f.noErr(err)
	return ev
}

// eventually waits until cond holds.
func (f *fixture) eventually(what string, cond func() bool) {
	f.Helper()
	for end := time.Now().Add(15 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatalf("never: %s", what)
		}
	}
}

func TestRequests(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	rev := f.put("k", "v", backend.PutOptions{}).Revision
	for _, c := range []struct {
		what string
		want int64
		do   func() error
	}{
		{"Get", 1, func() error { _, err := f.s.Get(ctx, "k", backend.GetOptions{}); return err }},
		{"Get of a revision that was seen", 1, func() error { _, err := f.s.Get(ctx, "k", backend.GetOptions{AtLeast: rev}); return err }},
		{"GetMany of 128", 1, func() error {
			_, err := f.s.GetMany(ctx, slices.Repeat([]string{"k", "none"}, 64), backend.GetOptions{})
			return err
		}},
		{"Put", 1, func() error { _, err := f.s.Put(ctx, "k", nil, backend.PutOptions{}); return err }},
		{"Put with a TTL", 1, func() error {
			_, err := f.s.Put(ctx, "ttl", nil, backend.PutOptions{TTL: time.Hour})
			return err
		}},
		{"create", 1, func() error { _, err := f.s.Put(ctx, "new", nil, backend.PutOptions{If: backend.Absent}); return err }},
		{"read, modify, write", 2, func() error {
			e, err := f.s.Get(ctx, "k", backend.GetOptions{})
			if err == nil {
				_, err = f.s.Put(ctx, "k", e.Value, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision, KeepTTL: true})
			}
			return err
		}},
		{"Commit", 1, func() error {
			_, err := f.s.Commit(ctx, backend.Txn{
				Checks: []backend.Check{{If: backend.Absent, Key: "none"}},
				Writes: []backend.Write{{Key: "k"}, {Key: "l", TTL: time.Hour}, {Key: "new", Delete: true}},
			})
			return err
		}},
		{"Delete", 1, func() error { return f.s.Delete(ctx, "l", backend.DeleteOptions{}) }},
		{"List", 1, func() error {
			for _, err := range f.s.List(ctx, "", backend.ListOptions{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Children", 2, func() error {
			for _, err := range f.s.List(ctx, "", backend.ListOptions{Children: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Ping", 1, func() error { return f.s.Ping(ctx) }},
	} {
		before := f.net.requests.Load()
		f.noErr(c.do())
		if n := f.net.requests.Load() - before; n != c.want {
			t.Errorf("%s: %d requests, want %d", c.what, n, c.want)
		}
	}
}

// Consul keeps a plain set bound to the session of the lease before it.
func TestPutOutlivesTheLeaseThatTheKeyHad(t *testing.T) {
	for _, c := range []struct {
		name string
		put  func(f *fixture, at backend.Revision) backend.Revision
	}{
		{"unconditional", func(f *fixture, _ backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{}).Revision
		}},
		{"at a revision", func(f *fixture, at backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{If: backend.AtRevision, Revision: at}).Revision
		}},
		{"if present", func(f *fixture, _ backend.Revision) backend.Revision {
			return f.put("k", "mine", backend.PutOptions{If: backend.Present}).Revision
		}},
		{"in a transaction", func(f *fixture, _ backend.Revision) backend.Revision {
			r, err := f.s.Commit(f.Context(), backend.Txn{Writes: []backend.Write{{Key: "k", Value: []byte("mine")}, {Key: "other"}}})
			f.noErr(err)
			for _, e := range r.Entries {
				if e.Revision != r.Revision {
					f.Errorf("%q has revision %d in a transaction of revision %d", e.Key, e.Revision, r.Revision)
				}
			}
			return r.Revision
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := setUp(t)
			l, err := f.s.Register(f.Context(), "k", []byte("theirs"), backend.RegisterOptions{TTL: time.Second})
			f.noErr(err)
			rev := c.put(f, l.Entry().Revision)
			p, _, err := f.kv.KV().Get(f.root+"/k", nil)
			f.noErr(err)
			if p.Session != "" || p.ModifyIndex != uint64(rev) {
				t.Fatalf("session %q, index %d; want none, %d", p.Session, p.ModifyIndex, rev)
			}
			f.wantErr(l.Renew(f.Context()), backend.ErrLeaseLost)
			f.noErr(l.Release(f.Context()))
			e, err := f.s.Get(f.Context(), "k", backend.GetOptions{})
			f.noErr(err)
			if string(e.Value) != "mine" || e.Revision != rev {
				t.Errorf("%q at %d, want mine at %d", e.Value, e.Revision, rev)
			}
		})
	}
}

// A put by another program leaves the key with the session; the registrant sets
// it free when it notices.
func TestForeignPutOutlivesTheLease(t *testing.T) {
	f := setUp(t)
	l, err := f.s.Register(f.Context(), "k", []byte("ours"), backend.RegisterOptions{})
	f.noErr(err)
	_, err = f.kv.KV().Put(&api.KVPair{Key: f.root + "/k", Value: []byte("theirs")}, nil)
	f.noErr(err)
	f.noErr(l.Release(f.Context()))
	p, _, err := f.kv.KV().Get(f.root+"/k", nil)
	f.noErr(err)
	if p == nil || p.Session != "" || string(p.Value) != "theirs" {
		t.Errorf("after Release: %+v", p)
	}
}

// A reply that is lost must cost neither the lease nor the value.
func TestLeaseWithALostReply(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	l, err := f.s.Register(ctx, "k", []byte("1"), backend.RegisterOptions{})
	f.noErr(err)
	f.net.loseOnce("/v1/txn")
	_, err = l.Set(ctx, []byte("2"))
	f.wantErr(err, backend.ErrUncertain)
	f.noErr(l.Renew(ctx))
	e, err := l.Set(ctx, []byte("3"))
	f.noErr(err)
	got, err := f.s.Get(ctx, "k", backend.GetOptions{})
	f.noErr(err)
	if string(got.Value) != "3" || got.Revision != e.Revision {
		t.Errorf("%q at %d, want 3 at %d", got.Value, got.Revision, e.Revision)
	}
	f.net.loseOnce("/v1/txn")
	_, err = l.Set(ctx, []byte("4"))
	f.wantErr(err, backend.ErrUncertain)
	f.noErr(l.Release(ctx))
	_, err = f.s.Get(ctx, "k", backend.GetOptions{})
	f.wantErr(err, backend.ErrNotFound)
}

// loseOnce loses the reply of the next request for path.
func (n *network) loseOnce(path string) {
	lose := func(r *http.Request) error {
		if r.URL.Path != path {
			return nil
		}
		n.lose.Store(nil)
		return io.ErrUnexpectedEOF
	}
	n.lose.Store(&lose)
}

func TestLostRepliesAreUncertain(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	f.put("gone", "", backend.PutOptions{})
	for what, do := range map[string]func() error{
		"Put":    func() error { _, err := f.s.Put(ctx, "a", nil, backend.PutOptions{}); return err },
		"Delete": func() error { return f.s.Delete(ctx, "gone", backend.DeleteOptions{}) },
		"Commit": func() error {
			_, err := f.s.Commit(ctx, backend.Txn{Writes: []backend.Write{{Key: "b"}}})
			return err
		},
	} {
		before := f.net.requests.Load()
		f.net.loseOnce("/v1/txn")
		err := do()
		f.wantErr(err, backend.ErrUncertain, io.ErrUnexpectedEOF)
		if n := f.net.requests.Load() - before; n != 1 {
			t.Errorf("%s: %d requests", what, n)
		}
	}
	for _, k := range []string{"a", "b"} { // each was applied
		_, err := f.s.Get(ctx, k, backend.GetOptions{})
		f.noErr(err)
	}
}

// Of a recursive delete Consul tells those that are held at the deleted prefix
// and above, not those below it.
func TestDeletePrefixWakesWatchersBelow(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	var want []string
	for i := range 70 {
		k := fmt.Sprintf("p/d%02d/x/k", i)
		f.put(k, "v", backend.PutOptions{})
		f.put(k+"2", "v", backend.PutOptions{})
		f.noErr(f.s.Delete(ctx, k+"2", backend.DeleteOptions{})) // leaves the trace that hides the later delete
		want = append(want, k)
	}
	var watches []backend.Watch
	for _, p := range []string{"p/d00", "p/d69/x", "p", ""} {
		w, err := f.s.Watch(ctx, p, backend.WatchOptions{})
		f.noErr(err)
		defer w.Close()
		watches = append(watches, w)
	}
	began := time.Now()
	n, err := f.s.DeletePrefix(ctx, "p")
	f.noErr(err)
	if n != int64(len(want)) {
		t.Errorf("%d keys went, want %d", n, len(want))
	}
	for i, w := range watches {
		if ev := f.next(w); ev.Kind != backend.Deleted {
			t.Errorf("watch %d: %+v", i, ev)
		}
	}
	if d := time.Since(began); d > 900*time.Millisecond {
		t.Errorf("the deletes were told after %v: by the next poll, not by a change", d)
	}
	names, _, err := f.kv.KV().Keys(f.root+"/", "", nil)
	f.noErr(err)
	if len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

// Above listBuffer a list is yielded as it arrives; what has an escape, or has
// to wait for one, must come in order all the same.
func TestLongListsAreInOrder(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	value := bytes.Repeat([]byte("v"), 60<<10)
	var want []string
	for i := range 30 {
		for _, k := range []string{fmt.Sprintf("a%02d", i), fmt.Sprintf("😀%02d", i), fmt.Sprintf("\tz%02d", i), fmt.Sprintf("a%02d\x01", i), fmt.Sprintf("a%02d-", i), fmt.Sprintf("a%02d/b", i)} {
			_, err := f.s.Put(ctx, k, value, backend.PutOptions{})
			f.noErr(err)
			want = append(want, k)
		}
	}
	slices.Sort(want)
	var got []string
	for e, err := range f.s.List(ctx, "", backend.ListOptions{}) {
		f.noErr(err)
		if !bytes.Equal(e.Value, value) {
			t.Fatalf("%q has another value", e.Key)
		}
		got = append(got, e.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for range f.s.List(ctx, "", backend.ListOptions{}) {
		break // leaves nothing behind: goleak
	}
}

// The flags of other programs mean nothing.
func TestForeignFlags(t *testing.T) {
	f := setUp(t)
	_, err := f.kv.KV().Put(&api.KVPair{Key: f.root + "/k", Value: []byte("v"), Flags: 42}, nil)
	f.noErr(err)
	e, err := f.s.Get(f.Context(), "k", backend.GetOptions{})
	f.noErr(err)
	if !e.Expires.IsZero() || string(e.Value) != "v" {
		t.Errorf("%+v", e)
	}
	f.put("plain", "v", backend.PutOptions{})
	p, _, err := f.kv.KV().Get(f.root+"/plain", nil)
	f.noErr(err)
	if p.Flags != 0 {
		t.Errorf("a plain put leaves flags %#x", p.Flags)
	}
}

func TestReapedOnce(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	w, err := f.s.Watch(ctx, "", backend.WatchOptions{Prev: true})
	f.noErr(err)
	defer w.Close()
	e := f.put("k", "v", backend.PutOptions{TTL: time.Second})
	if ev := f.next(w); ev.Kind != backend.Created {
		t.Fatalf("%+v", ev)
	}
	ev := f.next(w)
	if now := time.Now(); ev.Kind != backend.Deleted || now.Before(e.Expires) || now.After(e.Expires.Add(f.s.Capabilities().TTLSlack)) {
		t.Errorf("%+v, %v after its expiry", ev, now.Sub(e.Expires))
	}
	if ev.Prev == nil || string(ev.Prev.Value) != "v" {
		t.Errorf("Prev = %+v", ev.Prev)
	}
	f.eventually("the entry is reaped", func() bool {
		p, _, err := f.kv.KV().Get(f.root+"/k", nil)
		f.noErr(err)
		return p == nil
	})
	f.noErr(w.Sync(ctx))
	if ev := f.next(w); ev.Kind != backend.Progress {
		t.Errorf("told again: %+v", ev)
	}
}

// A lock leaves nothing behind: no session, no entry.
func TestLocksLeaveNothing(t *testing.T) {
	f := setUp(t)
	before := f.sessions()
	c, err := f.s.Contend(f.Context(), "l/x", backend.ContendOptions{})
	f.noErr(err)
	for _, cancelAfter := range []int64{0, 1, 2} {
		ctx, cancel := context.WithCancel(f.Context())
		start := f.net.requests.Load()
		hook := func(*http.Request) error {
			if f.net.requests.Load() > start+cancelAfter {
				cancel()
			}
			return nil
		}
		f.net.fail.Store(&hook)
		if w, err := f.s.Contend(ctx, "l/x", backend.ContendOptions{}); err == nil {
			w.Wait(ctx)
			w.Release(ctx)
		}
		f.net.fail.Store(nil)
		cancel()
	}
	_, err = f.s.Contend(f.Context(), "l/x", backend.ContendOptions{Try: true})
	f.wantErr(err, backend.ErrLocked)
	f.noErr(c.Release(f.Context()))
	f.eventually("no session and no place is left", func() bool {
		names, _, err := f.kv.KV().Keys(f.root+"=kv/locks/", "", nil)
		f.noErr(err)
		return len(names) == 0 && f.sessions() <= before
	})
}

func (f *fixture) sessions() int {
	all, _, err := f.kv.Session().List(nil)
	f.noErr(err)
	return len(all)
}

func TestNewerBookkeepingIsRefused(t *testing.T) {
	f := setUp(t)
	_, err := f.kv.KV().Put(&api.KVPair{Key: f.root + "=kv/version", Value: []byte("2")}, nil)
	f.noErr(err)
	_, err = f.s.Contend(f.Context(), "l", backend.ContendOptions{})
	f.wantErr(err, backend.ErrNewerSchema)
}

func TestUnusableConfiguration(t *testing.T) {
	for _, s := range []*consulkv.Store{
		consulkv.New(&api.Config{TLSConfig: api.TLSConfig{CAFile: "/does/not/exist"}}, consulkv.Options{}),
		consulkv.New(nil, consulkv.Options{Root: "a/b", Meta: "a"}),
	} {
		_, err := s.Get(t.Context(), "k", backend.GetOptions{})
		if !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Get: %v", err)
		}
		if err := s.Ping(t.Context()); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Ping: %v", err)
		}
		s.Close()
	}
	if !strings.Contains(consulkv.New(nil, consulkv.Options{}).Capabilities().Name, "consul") {
		t.Error("no name")
	}
}

// A List of values that are many times what it may hold keeps to the names.
func TestLongListsStayOutOfMemory(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	value := bytes.Repeat([]byte("v"), 256<<10)
	const n = 200 // 50 MB
	for i := range n {
		_, err := f.s.Put(ctx, fmt.Sprintf("k%03d", i), value, backend.PutOptions{})
		f.noErr(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, got := heap(), uint64(0), 0
	for _, err := range f.s.List(ctx, "", backend.ListOptions{}) {
		f.noErr(err)
		if got++; got%20 == 0 {
			most = max(most, heap())
		}
	}
	if got != n {
		t.Errorf("%d keys, want %d", got, n)
	}
	if held := int64(most) - int64(before); held > 12<<20 {
		t.Errorf("the list of %d MB holds %d MB", n*len(value)>>20, held>>20)
	}
}

// Contenders of one store need not learn of their place in the order of the
// queue: one that comes late may be ahead of the one that is waited for.
func TestContendersThatLearnOfTheirPlaceOutOfOrder(t *testing.T) {
	f := setUp(t)
	other := f.net.open(t, f.addr, f.root)
	defer other.Close()
	stores := []backend.Store{f.s, other}
	ctx, cancel := context.WithTimeout(f.Context(), 60*time.Second) // a minute is the lease: a stall ends only with it
	defer cancel()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 60 {
				c, err := stores[i%2].Contend(ctx, "l", backend.ContendOptions{Lease: 5 * time.Minute})
				if err == nil {
					err = errors.Join(c.Wait(ctx), c.Release(ctx))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
