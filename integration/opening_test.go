package integration

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
)

// drivers are what a program that takes any store by URL compiles in.
var drivers = kv.Drivers{
	etcdkv.Driver{}, consulkv.Driver{}, zookeeperkv.Driver{}, rediskv.Driver{}, boltkv.Driver{},
}

// dialTimeout is the parameter of each store's URL that bounds the wait for a server (for bolt: for the file).
var dialTimeout = map[testserver.Store]string{
	testserver.Etcd: "dial_timeout", testserver.Consul: "dial_timeout",
	testserver.ZooKeeper: "dial_timeout", testserver.Redis: "dial_timeout",
}

// storeURL returns the URL that opens a store: user and password belong to what Spec.Auth gives and may be empty.
func storeURL(addr string, store testserver.Store, root string, who testserver.Credentials, params url.Values) string {
	u := url.URL{Scheme: string(store), Host: addr, Path: "/" + root, RawQuery: params.Encode()}
	if who.User != "" {
		u.User = url.UserPassword(who.User, who.Password)
	}
	if who.Token != "" {
		q := u.Query()
		q.Set("token", who.Token)
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// openURL opens a store as a program does, and closes it with the test.
func openURL(t testing.TB, d kv.Drivers, rawURL string, opts ...kv.Option) (*kv.Store, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := d.Open(ctx, rawURL, opts...)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s, nil
}

// onEveryURL runs f with a fresh root on each store, opened by URL, and on the store in memory, which has none. open
// gives further clients of that root, each as another process has one where the store has processes.
func onEveryURL(t *testing.T, f func(t *testing.T, open func(t testing.TB) *kv.Store)) {
	onURLs(t, func(name string, g func(t *testing.T)) { t.Run(name, g) }, f)
}

// onEveryURLAtOnce is onEveryURL for tests that mostly wait: all stores run at the same time.
func onEveryURLAtOnce(t *testing.T, f func(t *testing.T, open func(t testing.TB) *kv.Store)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	onURLs(t, func(name string, g func(t *testing.T)) { wg.Go(func() { t.Run(name, g) }) }, f)
}

func onURLs(t *testing.T, run func(name string, g func(t *testing.T)), f func(t *testing.T, open func(t testing.TB) *kv.Store)) {
	run("memory", func(t *testing.T) {
		first := memkv.New(memkv.Options{})
		t.Cleanup(func() { first.Close() })
		f(t, func(t testing.TB) *kv.Store {
			s := kv.New(first.Peer())
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
	run("bolt", func(t *testing.T) {
		// A file belongs to one process, and its URL opens it once: further clients are peers.
		first, err := openURL(t, drivers, "bolt://"+filepath.Join(t.TempDir(), "kv.db")+"?timeout=1s")
		if err != nil {
			t.Fatal(err)
		}
		f(t, func(t testing.TB) *kv.Store {
			s := kv.New(first.Backend().(*boltkv.Store).Peer())
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
	for _, store := range testserver.Stores() {
		run(string(store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store})
			root := testserver.UniqueName(t)
			params := url.Values{}
			if store == testserver.Redis { // whose limit of 512 MiB is more than a test wants to hold
				params.Set("max_value_bytes", fmt.Sprint(1<<20))
			}
			f(t, func(t testing.TB) *kv.Store {
				s, err := openURL(t, drivers, storeURL(srv.Addrs()[0], store, root, testserver.Credentials{}, params))
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}
