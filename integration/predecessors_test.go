package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/testserver"
)

// The tests in the files predecessors*_test.go are named for defects of valkeyrie and libkv that were reproduced on real
// servers, with the store that had them, and for what their users asked for. Each runs on every store on which it makes
// sense, not only on the one that had the defect.

// A defect is one of them. The key space below s is its own; open gives another client of the same.
type defect struct {
	name string
	run  func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store)
}

// onDefects runs a table of them on every store.
func onDefects(t *testing.T, table []defect) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		for i, d := range table {
			t.Run(d.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				client := func() *kv.Store { return open(t).Sub(fmt.Sprint("defect-", i)) }
				d.run(t, ctx, client(), client)
			})
		}
	})
}

// onProxies runs f on every server, through a network that f may disturb.
func onProxies(t *testing.T, f func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store)) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) { throughProxy(t, store, f) })
	}
}

// throughProxy opens two clients of one root, one of them behind a proxy.
func throughProxy(t *testing.T, store testserver.Store, f func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store)) {
	srv := servers.Shared(t, testserver.Spec{Store: store})
	root := testserver.UniqueName(t)
	p := testserver.NewProxy(t, srv.Addrs()[0])
	params := url.Values{dialTimeout[store]: {"1s"}}
	s := ok[*kv.Store](t)(openURL(t, drivers, storeURL(p.Addr(), store, root, testserver.Credentials{}, params)))
	direct := ok[*kv.Store](t)(openURL(t, drivers, storeURL(srv.Addrs()[0], store, root, testserver.Credentials{}, nil)))
	ctx, cancel := context.WithTimeout(t.Context(), 4*within)
	defer cancel()
	f(t, ctx, p, s, direct)
}

func put(t testing.TB, ctx context.Context, s *kv.Store, key, value string, opts ...kv.WriteOption) kv.Entry[[]byte] {
	t.Helper()
	return ok[kv.Entry[[]byte]](t)(s.Put(ctx, key, []byte(value), opts...))
}

// TestPredecessorUpdates is about updates that were lost, or won when they should not have.
func TestPredecessorUpdates(t *testing.T) {
	onDefects(t, []defect{
		{"redis: a stale compare-and-set wins on JSON, errors on text", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			other := open()
			for _, value := range []string{`{"a": 1}`, "text", "", "\x00\xff"} {
				seen := put(t, ctx, s, "k", value)
				put(t, ctx, other, "k", value+"theirs")
				if _, err := s.Update(ctx, "k", []byte("mine"), seen.Revision); !errors.Is(err, kv.ErrConflict) {
					t.Errorf("of %q: %v", value, err)
				}
				now := ok[kv.Entry[[]byte]](t)(s.Get(ctx, "k"))
				if string(now.Value) != value+"theirs" {
					t.Errorf("their update of %q is lost: %q", value, now.Value)
				}
				if _, err := s.Update(ctx, "k", []byte("mine"), now.Revision); err != nil {
					t.Errorf("at the revision that is there: %v", err)
				}
			}
		}},
		{"zookeeper: a stale compare-and-set wins after delete and recreate", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			other := open()
			seen := ok[kv.Entry[[]byte]](t)(s.Create(ctx, "k", []byte("v")))
			if err := other.Delete(ctx, "k"); err != nil {
				t.Fatal(err)
			}
			again := ok[kv.Entry[[]byte]](t)(other.Create(ctx, "k", []byte("v")))
			if again.Revision <= seen.Revision {
				t.Errorf("recreated at revision %d, after %d", again.Revision, seen.Revision)
			}
			if _, err := s.Update(ctx, "k", []byte("lost"), seen.Revision); !errors.Is(err, kv.ErrConflict) {
				t.Errorf("update: %v", err)
			}
			if err := s.Delete(ctx, "k", kv.IfRevision(seen.Revision)); !errors.Is(err, kv.ErrConflict) {
				t.Errorf("delete: %v", err)
			}
			tx := s.Txn()
			tx.Update("k", []byte("lost"), seen.Revision)
			if _, err := tx.Commit(ctx); !errors.Is(err, kv.ErrConflict) {
				t.Errorf("commit: %v", err)
			}
		}},
		{"etcd: an atomic delete of a changed key says not found", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			seen := put(t, ctx, s, "k", "v")
			put(t, ctx, open(), "k", "theirs")
			err := s.Delete(ctx, "k", kv.IfRevision(seen.Revision))
			if !errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrNotFound) {
				t.Errorf("delete of a changed key: %v", err)
			}
			if there, err := s.Exists(ctx, "k"); !there || err != nil {
				t.Errorf("afterwards: %v, %v", there, err)
			}
		}},
		{"consul: two racers with one revision and one value both win", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			other := open()
			seen := put(t, ctx, s, "k", "same")
			_, first := s.Update(ctx, "k", []byte("same"), seen.Revision)
			_, second := other.Update(ctx, "k", []byte("same"), seen.Revision)
			if first != nil || !errors.Is(second, kv.ErrConflict) {
				t.Errorf("the first got %v, the second %v", first, second)
			}
		}},
		{"zookeeper: a put of /a/b returns nil and writes nothing", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			for _, key := range []string{"/a/b", "c/d/e/f", "//g//"} {
				put(t, ctx, s, key, "v of "+key)
				if e := ok[kv.Entry[[]byte]](t)(open().Get(ctx, key)); string(e.Value) != "v of "+key {
					t.Errorf("%q holds %q", key, e.Value)
				}
			}
		}},
		{"redis: an empty value vanishes from lists", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "d/empty", "")
			ok[kv.Entry[[]byte]](t)(s.Put(ctx, "d/nil", nil))
			if got := keysOf(t, open().List(ctx, "d")); !slices.Equal(got, []string{"d/empty", "d/nil"}) {
				t.Errorf("listed %q", got)
			}
			if there, err := s.Exists(ctx, "d/empty"); !there || err != nil {
				t.Errorf("exists: %v, %v", there, err)
			}
		}},
		{"libnetwork: create with an empty pair, then compare with the version that was stored", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			made := ok[kv.Entry[[]byte]](t)(s.Create(ctx, "k", nil))
			if _, err := s.Create(ctx, "k", nil); !errors.Is(err, kv.ErrExists) {
				t.Errorf("created twice: %v", err)
			}
			stored := fmt.Sprint(made.Revision) // in a file, say, and read in another process
			var rev kv.Revision
			if _, err := fmt.Sscan(stored, &rev); err != nil {
				t.Fatal(err)
			}
			if _, err := open().Update(ctx, "k", []byte("v"), rev); err != nil {
				t.Errorf("update: %v", err)
			}
		}},
		{"libkv: options are dropped in silence", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			// Each option has its effect, or is refused before anything is written.
			put(t, ctx, s, "k", "v")
			e := put(t, ctx, s, "k", "v", kv.TTL(time.Hour))
			if left := time.Until(e.Expires); left < 59*time.Minute || left > 61*time.Minute {
				t.Errorf("a TTL of an hour expires in %v", left)
			}
			if e := ok[kv.Entry[[]byte]](t)(open().Get(ctx, "k")); e.Expires.IsZero() {
				t.Error("the TTL is not there for another client")
			}
			full := ok[string](t)(s.Key("k"))
			if _, err := s.Put(ctx, "l", nil, kv.If(kv.Check{Key: full, If: kv.Check{}.If})); err == nil {
				t.Error("a check without a condition was accepted")
			}
			if _, err := s.Watch(ctx, "", kv.FromSnapshot(), kv.Resume("token")); err == nil {
				t.Error("options that contradict were accepted")
			}
			if there, err := s.Exists(ctx, "l"); there || err != nil {
				t.Errorf("a refused put wrote: %v, %v", there, err)
			}
		}},
		{"traefik #3779: errors do not name the key", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			full := ok[string](t)(s.Key("some/key"))
			_, get := s.Get(ctx, "some/key")
			_, update := s.Update(ctx, "some/key", []byte(secret), 1)
			for _, err := range []error{get, update, s.Delete(ctx, "some/key")} {
				var e *kv.Error
				if !errors.As(err, &e) || e.Key != full || !strings.Contains(err.Error(), full) || !strings.Contains(err.Error(), e.Store) {
					t.Errorf("%v", err)
				}
			}
		}},
	})
}

// TestPredecessorLostReply: on Redis, a network error on create was reported as "exists". The reply to a write is lost:
// the error is that it may have been applied, and not that somebody else was there first, nor that all is well.
func TestPredecessorLostReply(t *testing.T) {
	onProxies(t, func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
		seen := put(t, ctx, s, "there", "v")
		for name, c := range map[string]struct {
			key string
			do  func(key string) error
		}{
			"create": {"lost-create", func(key string) error { _, err := s.Create(ctx, key, []byte("v")); return err }},
			"put":    {"lost-put", func(key string) error { _, err := s.Put(ctx, key, []byte("v")); return err }},
			"update": {"there", func(key string) error { _, err := s.Update(ctx, key, []byte("w"), seen.Revision); return err }},
		} {
			until(t, "the network is back", func() error { return s.Ping(ctx) })
			lost := p.LoseReply(func(request []byte) bool { return bytes.Contains(request, []byte(c.key)) })
			err := c.do(c.key)
			select {
			case <-lost:
			case <-time.After(within):
				t.Fatalf("%s: no reply was lost: %v", name, err)
			}
			if errors.Is(err, kv.ErrExists) || errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
			e, getErr := direct.Get(ctx, c.key)
			applied := getErr == nil && e.Revision > seen.Revision
			switch {
			case errors.Is(err, kv.ErrUncertain):
				// On ZooKeeper the reply may be that of an earlier step: a set that finds no node, say.
				if !applied && direct.Capabilities().Name != "zookeeper" {
					t.Errorf("%s is not there: %+v, %v", name, e, getErr)
				}
			case errors.Is(err, kv.ErrUnavailable):
				if applied || direct.Capabilities().Name != "zookeeper" { // which reads before it updates
					t.Errorf("%s was applied, and its error is %v", name, err)
				}
			default:
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// leaked returns an error that names goroutines that are there now and were not before, given by goleak.IgnoreCurrent. No
// leak are a client's idle connections, answers to what was abandoned (Consul holds a read for 20 s), and the workers of
// rediskv, of which eight stay.
func leaked(before goleak.Option) error {
	return goleak.Find(before, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreTopFunction("github.com/polykv/kv/backend/rediskv.(*Store).work"))
}
