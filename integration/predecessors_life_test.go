package integration

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/redis/go-redis/v9"
	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// TestPredecessorContexts: ctx was ignored in most calls (stolon left for that: stolon #393). Every call on a server that
// went silent ends with its context.
func TestPredecessorContexts(t *testing.T) {
	onProxies(t, func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
		for _, do := range everyCall { // connections, scripts and bookkeeping are there
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			_ = do(short, s)
			cancel()
		}
		p.Stall()
		stalls := pace.Watch(t)
		const timeout = 300 * time.Millisecond
		var wg sync.WaitGroup
		for op, do := range everyCall {
			wg.Go(func() {
				short, cancel := context.WithTimeoutCause(ctx, timeout, errWhy)
				defer cancel()
				start := time.Now()
				err := do(short, s)
				took := time.Since(start)
				// A hundred milliseconds is the promise; the goroutine has to be scheduled for it among all of these.
				if took > timeout+400*time.Millisecond+stalls.Since(start) {
					t.Errorf("%s returned %v after its context's end", op, took-timeout)
				}
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errWhy) {
					t.Errorf("%s: %v", op, err)
				}
			})
		}
		wg.Wait()
		p.Resume()
		until(t, "the store works again", func() error { return s.Ping(ctx) })
	})
}

// TestPredecessorVersionCounter: bbolt's version counter began at 0 again when the file was opened again, so that a stale
// compare-and-set won. On every store a revision from before stays one from before.
func TestPredecessorVersionCounter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	for name, rawURL := range map[string]func(t *testing.T) string{
		"bolt":      func(*testing.T) string { return "bolt://" + path },
		"etcd":      rootURL(testserver.Etcd),
		"consul":    rootURL(testserver.Consul),
		"zookeeper": rootURL(testserver.ZooKeeper),
		"redis":     rootURL(testserver.Redis),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, raw := t.Context(), rawURL(t)
			var seen kv.Entry[[]byte]
			for round := range 3 {
				s := ok[*kv.Store](t)(openURL(t, drivers, raw))
				if round > 0 {
					if _, err := s.Update(ctx, "k", []byte("stale"), seen.Revision); !errors.Is(err, kv.ErrConflict) {
						t.Errorf("round %d: a revision of the last one: %v", round, err)
					}
					if err := s.Delete(ctx, "k"); err != nil {
						t.Error(err)
					}
				}
				first := ok[kv.Entry[[]byte]](t)(s.Create(ctx, "k", []byte("v")))
				if first.Revision <= seen.Revision {
					t.Errorf("round %d: revision %d after %d", round, first.Revision, seen.Revision)
				}
				seen = first
				put(t, ctx, s, "k", "v")
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// rootURL returns a store's URL with a root that belongs to the test.
func rootURL(store testserver.Store) func(t *testing.T) string {
	return func(t *testing.T) string {
		srv := servers.Shared(t, testserver.Spec{Store: store})
		return storeURL(srv.Addrs()[0], store, testserver.UniqueName(t), testserver.Credentials{}, nil)
	}
}

// TestPredecessorShortForeignValue: a value that another program had written to bbolt, and that was shorter than a header
// of 8 bytes, was a panic.
func TestPredecessorShortForeignValue(t *testing.T) {
	db := ok[*bbolt.DB](t)(bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{Timeout: time.Second}))
	defer db.Close()
	foreign := bareBolt{db}
	for _, value := range []string{"", "1", "1234567", "12345678", "123456789"} {
		foreign.put(t, "kv/d/"+value, []byte(value))
	}
	s := kv.New(boltkv.New(db, boltkv.Options{}))
	defer s.Close()
	ctx := t.Context()
	w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
	defer w.Close()
	for e, err := range s.List(ctx, "d") {
		if err != nil || "d/"+string(e.Value) != e.Key && len(e.Value) > 0 || e.Revision == 0 {
			t.Errorf("%+v, %v", e, err)
		}
		nextKey(t, ctx, w, kv.Existing, e.Key)
		if _, err := s.Update(ctx, e.Key, []byte("mine"), e.Revision); err != nil {
			t.Errorf("update of %q: %v", e.Key, err)
		}
	}
}

// TestPredecessorPing: a ping needed rights outside of the prefix that was permitted. (traefik #2394 #12092)
func TestPredecessorPing(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store, Auth: true})
			s := ok[*kv.Store](t)(openURL(t, secure(srv.TLS()), storeURL(srv.Addrs()[0], store, testserver.LimitedRoot, srv.LimitedCredentials(), nil)))
			if err := s.Ping(t.Context()); err != nil {
				t.Errorf("ping within the root that is permitted: %v", err)
			}
			put(t, t.Context(), s, "k", "v")
			if es := keysOf(t, s.List(t.Context(), "")); len(es) != 1 {
				t.Errorf("listed %q", es)
			}
			// On ZooKeeper a delete needs rights on the bookkeeping, and says so.
			if err := s.Delete(t.Context(), "k"); err != nil && (store != testserver.ZooKeeper || !errors.Is(err, kv.ErrPermission)) {
				t.Error(err)
			}
		})
	}
}

// TestPredecessorProcessWide: TLS to Consul changed http.DefaultClient for the whole process.
func TestPredecessorProcessWide(t *testing.T) {
	client, clientTransport, transport := http.DefaultClient, http.DefaultClient.Transport, http.DefaultTransport
	tlsBefore := http.DefaultTransport.(*http.Transport).TLSClientConfig
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Consul, TLS: true, Auth: true})
	s := ok[*kv.Store](t)(openURL(t, secure(srv.TLS()), storeURL(srv.Addrs()[0], testserver.Consul, testserver.UniqueName(t), srv.Credentials(), nil)))
	put(t, t.Context(), s, "k", "v")
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	if http.DefaultClient != client || client.Transport != clientTransport || http.DefaultTransport != transport ||
		http.DefaultTransport.(*http.Transport).TLSClientConfig != tlsBefore {
		t.Error("the process's HTTP client is another one now")
	}
}

// TestPredecessorConfigSet: the constructor for Redis changed the server's configuration. And hosted Redis sends no
// notifications, which was met with silence (traefik #8196 #8749): the store says what a watch cannot see.
func TestPredecessorConfigSet(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	c := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0]})
	defer c.Close()
	ctx := t.Context()
	before := ok[map[string]string](t)(c.ConfigGet(ctx, "*").Result())
	root := testserver.UniqueName(t)
	s := ok[*kv.Store](t)(openURL(t, drivers, storeURL(srv.Addrs()[0], testserver.Redis, root, testserver.Credentials{}, nil)))
	w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, ""))
	defer w.Close()
	put(t, ctx, s, "k", "v", kv.TTL(time.Hour))
	nextKey(t, ctx, w, kv.Created, "k")
	if after := ok[map[string]string](t)(c.ConfigGet(ctx, "*").Result()); !maps.Equal(after, before) {
		t.Error("the server's configuration is another one now")
	}
	if s.Capabilities().ForeignEvents != (before["notify-keyspace-events"] != "") {
		t.Errorf("the server notifies of %q, and the store says %v", before["notify-keyspace-events"], s.Capabilities().ForeignEvents)
	}
	// What no message told of is told by the next read.
	if err := c.Set(ctx, root+"/k", "theirs", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if e := ok[kv.Entry[[]byte]](t)(s.Get(ctx, "k")); string(e.Value) != "theirs" || !e.Expires.IsZero() {
		t.Errorf("%+v", e)
	}
	nextKey(t, ctx, w, kv.Updated, "k")
}

// TestPredecessorOwnClient: users could not hand in a client of theirs. (libkv #29 #98 #151) It stays theirs: the store
// that was made with it closes without closing it.
func TestPredecessorOwnClient(t *testing.T) {
	addr := func(t *testing.T, store testserver.Store) string {
		return servers.Shared(t, testserver.Spec{Store: store}).Addrs()[0]
	}
	check := func(t *testing.T, s *kv.Store, alive func() error) {
		t.Helper()
		put(t, t.Context(), s, "k", "v")
		if err := errors.Join(s.Delete(t.Context(), "k"), s.Close()); err != nil {
			t.Error(err)
		}
		if err := alive(); err != nil {
			t.Errorf("the client after the store was closed: %v", err)
		}
	}
	t.Run("etcd", func(t *testing.T) {
		c := ok[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: []string{addr(t, testserver.Etcd)}, DialTimeout: 5 * time.Second}))
		defer c.Close()
		check(t, kv.New(etcdkv.New(c, etcdkv.Options{Root: testserver.UniqueName(t)})), func() error { _, err := c.Get(t.Context(), "any"); return err })
	})
	t.Run("zookeeper", func(t *testing.T) {
		c := rawZooKeeper(t, addr(t, testserver.ZooKeeper))
		check(t, kv.New(zookeeperkv.New(c, zookeeperkv.Options{Root: "/" + testserver.UniqueName(t)})), func() error { _, _, err := c.Get("/"); return err })
		if c.State() != zk.StateHasSession {
			t.Errorf("the connection is %v", c.State())
		}
	})
	t.Run("redis", func(t *testing.T) {
		c := redis.NewClient(&redis.Options{Addr: addr(t, testserver.Redis)})
		defer c.Close()
		check(t, kv.New(rediskv.New(c, rediskv.Options{Root: testserver.UniqueName(t)})), func() error { return c.Ping(t.Context()).Err() })
	})
	t.Run("bolt", func(t *testing.T) {
		db := ok[*bbolt.DB](t)(bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{Timeout: time.Second}))
		defer db.Close()
		check(t, kv.New(boltkv.New(db, boltkv.Options{})), func() error { return db.View(func(*bbolt.Tx) error { return nil }) })
	})
	t.Run("consul", func(t *testing.T) { // whose configuration is the caller's, with its HTTP client
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		own := &http.Client{Transport: transport}
		check(t, kv.New(ownConsul(addr(t, testserver.Consul), testserver.UniqueName(t), own)), func() error {
			resp, err := own.Get("http://" + addr(t, testserver.Consul) + "/v1/status/leader")
			if err == nil {
				err = resp.Body.Close()
			}
			return err
		})
	})
}

// TestPredecessorPinnedVersions: one store's client pinned the versions of all others. (valkeyrie #28 #29) The core
// requires no client of a network store, and each driver's module only its own.
func TestPredecessorPinnedVersions(t *testing.T) {
	clients := map[string]*regexp.Regexp{
		"etcdkv": regexp.MustCompile(`go\.etcd\.io/etcd/`), "consulkv": regexp.MustCompile(`github\.com/hashicorp/`),
		"zookeeperkv": regexp.MustCompile(`github\.com/go-zookeeper/`), "rediskv": regexp.MustCompile(`github\.com/redis/`),
	}
	for _, module := range []string{"..", "../backend/etcdkv", "../backend/consulkv", "../backend/zookeeperkv", "../backend/rediskv"} {
		text, err := os.ReadFile(filepath.Join(module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		for driver, client := range clients {
			own := strings.HasSuffix(module, driver)
			if got := client.Match(text); got != own {
				t.Errorf("%s requires the client of %s: %v", module, driver, got)
			}
		}
	}
}

// TestPredecessorCluster: the predecessors could not be used with Redis Cluster. (traefik #9120 #10228) All of a root is in
// one slot, which its hash tag chooses; roots spread over the servers.
func TestPredecessorCluster(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Cluster: true})
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for range 4 { // one slot each
		rawURL := "redis+cluster://" + strings.Join(srv.Addrs(), ",") + "/{" + testserver.UniqueName(t) + "}"
		s, other := ok[*kv.Store](t)(openURL(t, drivers, rawURL)), ok[*kv.Store](t)(openURL(t, drivers, rawURL))
		w := ok[*kv.Watch[[]byte]](t)(other.Watch(ctx, "", kv.FromSnapshot()))
		nextKey(t, ctx, w, kv.Synced, "")
		e := put(t, ctx, s, "a/b", "v")
		nextKey(t, ctx, w, kv.Created, "a/b")
		tx := s.Txn()
		tx.Update("a/b", []byte("w"), e.Revision)
		tx.Create("c", nil, kv.TTL(time.Hour))
		ok[kv.TxnResult](t)(tx.Commit(ctx))
		nextKey(t, ctx, w, kv.Updated, "a/b")
		nextKey(t, ctx, w, kv.Created, "c")
		if _, err := s.Update(ctx, "a/b", nil, e.Revision); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("a stale update: %v", err)
		}
		held := ok[*lock.Held](t)(lock.TryLock(ctx, s, "l"))
		if _, err := lock.TryLock(ctx, other, "l"); !errors.Is(err, kv.ErrLocked) {
			t.Errorf("locked twice: %v", err)
		}
		if err := held.Unlock(ctx); err != nil {
			t.Error(err)
		}
		if got := keysOf(t, other.List(ctx, "")); !slices.Equal(got, []string{"a/b", "c"}) {
			t.Errorf("listed %q", got)
		}
		for _, key := range []string{"a/b", "c"} {
			if err := s.Delete(ctx, key); err != nil {
				t.Error(err)
			}
			nextKey(t, ctx, w, kv.Deleted, key)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
