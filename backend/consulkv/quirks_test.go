package consulkv_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/pace"
)

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
	pace.Best(t, 900*time.Millisecond, "to tell the deletes, by a change and not by the next poll,", func() time.Duration {
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
		took := time.Since(began)
		names, _, err := f.kv.KV().Keys(f.root+"/", "", nil)
		f.noErr(err)
		if len(names) > 0 {
			t.Errorf("left behind: %q", names)
		}
		return took
	})
}

// The names that wake watchers are as long as the directories are, and do not make the request too large.
func TestDeletePrefixOfLongNames(t *testing.T) {
	f := setUp(t)
	const dirs = 70
	for i := range dirs {
		f.put(fmt.Sprintf("p/%s%02d/k", strings.Repeat("<", 1500), i), "", backend.PutOptions{})
	}
	n, err := f.s.DeletePrefix(f.Context(), "p")
	f.noErr(err)
	if n != dirs {
		t.Errorf("%d keys went, want %d", n, dirs)
	}
	names, _, err := f.kv.KV().Keys(f.root+"/", "", nil)
	f.noErr(err)
	if len(names) > 0 {
		t.Errorf("%d names are left", len(names))
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
	begin, stalls := time.Now(), pace.Watch(t)
	e := f.put("k", "v", backend.PutOptions{TTL: 3 * time.Second}) // so that it is seen before, where changes may be merged
	if ev := f.next(w); ev.Kind != backend.Created {
		t.Fatalf("%+v", ev)
	}
	ev := f.next(w)
	if now := time.Now(); ev.Kind != backend.Deleted || now.Before(e.Expires) || now.After(e.Expires.Add(f.s.Capabilities().TTLSlack+stalls.Since(begin))) {
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

// R5: names that are no keys are counted, and told of once.
func TestForeignNames(t *testing.T) {
	f := setUp(t)
	var logged bytes.Buffer
	s := consulkv.New(&api.Config{Address: f.addr, HttpClient: f.net.client(t)},
		consulkv.Options{Root: f.root, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	defer s.Close()
	for _, name := range []string{"a//b", "dir/"} {
		_, _, _, err := f.kv.Txn().Txn(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVSet, Key: f.root + "/" + name, Value: []byte("v")}}}, nil)
		f.noErr(err)
	}
	for range 2 {
		for e, err := range s.List(t.Context(), "", backend.ListOptions{}) {
			t.Errorf("listed %q, %v", e.Key, err)
		}
	}
	if n := s.ForeignNames(); n != 4 || strings.Count(logged.String(), "is no key") != 1 {
		t.Errorf("%d times in two lists of two, logged %q", n, &logged)
	}
}
