package integration

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

const (
	// lockLag is what a busy machine adds to what should take no time.
	lockLag = time.Second
	// lockPatience is how long a test waits for what has no bound of its own.
	lockPatience = time.Minute
)

// lockServer is a server of a test's own, with what locks need to know of it.
type lockServer struct {
	*testserver.Server
	lease time.Duration // the shortest that is given
}

// leases are the shortest that each store gives, or the tests ask for: they are renewed in time on a machine that stands still
// for two seconds.
var leases = map[testserver.Store]time.Duration{
	testserver.Etcd: 4 * time.Second, testserver.Consul: 20 * time.Second,
	testserver.ZooKeeper: 4 * time.Second, testserver.Redis: 4 * time.Second,
}

// url is the URL of a root on the server, by way of addr. ZooKeeper's session, which bounds its leases, is as short as the
// server lets it be.
func (s lockServer) url(addr, root string) string {
	params := url.Values{}
	if s.Store() == testserver.ZooKeeper {
		params.Set("session", s.lease.String())
	}
	return storeURL(addr, s.Store(), root, testserver.Credentials{}, params)
}

// open opens a client of its own, which the test closes at its end.
func (s lockServer) open(t testing.TB, addr, root string, opts ...kv.Option) *kv.Store {
	t.Helper()
	st, err := openURL(t, drivers, s.url(addr, root), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// onLockServers runs f for each kind of server, at the same time, on a server of its own in default configuration, but for a
// Redis that keeps what it has acknowledged.
func onLockServers(t *testing.T, f func(t *testing.T, s lockServer)) {
	onServers(t, f, func(t *testing.T, store testserver.Store) *testserver.Server {
		return testserver.Start(t, testserver.Spec{Store: store, Persist: true})
	})
}

// onSharedServers is onLockServers on servers that other tests use too.
func onSharedServers(t *testing.T, f func(t *testing.T, s lockServer)) {
	onServers(t, f, func(t *testing.T, store testserver.Store) *testserver.Server {
		return servers.Shared(t, testserver.Spec{Store: store})
	})
}

func onServers(t *testing.T, f func(*testing.T, lockServer), start func(*testing.T, testserver.Store) *testserver.Server) {
	t.Parallel()
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			f(t, lockServer{start(t, store), leases[store]})
		})
	}
}

// lockRemains lists, with the raw client, what locks may leave on a server: their bookkeeping, and the sessions and leases
// that it is bound to.
func lockRemains(t testing.TB, store testserver.Store, addr string) (names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ours := func(name string) bool { return strings.Contains(name, "=kv/lock") }
	switch store {
	case testserver.Etcd:
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: lockPatience, Context: ctx})
		must(err)
		defer c.Close()
		keys, err := c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		must(err)
		for _, kv := range keys.Kvs {
			if ours(string(kv.Key)) {
				names = append(names, string(kv.Key))
			}
		}
		leases, err := c.Leases(ctx)
		must(err)
		for _, l := range leases.Leases {
			names = append(names, fmt.Sprintf("lease %x", l.ID))
		}
	case testserver.Consul:
		conf := api.DefaultConfig()
		conf.Address = addr
		c, err := api.NewClient(conf)
		must(err)
		defer conf.Transport.CloseIdleConnections()
		keys, _, err := c.KV().Keys("", "", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		must(err)
		names = slices.DeleteFunc(keys, func(name string) bool { return !ours(name) })
		sessions, _, err := c.Session().List((&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		must(err)
		for _, s := range sessions {
			names = append(names, "session "+s.ID)
		}
	case testserver.ZooKeeper:
		c, events, err := zk.Connect([]string{addr}, lockPatience, zk.WithLogger(noLog{}))
		must(err)
		defer func() {
			c.Close()
			for range events {
				// until its goroutines are gone
			}
		}()
		var walk func(path string)
		walk = func(path string) {
			children, stat, err := c.Children(path)
			if err != nil {
				return // gone meanwhile
			}
			if stat.EphemeralOwner != 0 {
				names = append(names, path)
			}
			for _, child := range children {
				walk(strings.TrimSuffix(path, "/") + "/" + child)
			}
		}
		walk("/")
	case testserver.Redis:
		c := redis.NewClient(&redis.Options{Addr: addr})
		defer c.Close()
		all, err := c.Keys(ctx, "*").Result()
		must(err)
		names = slices.DeleteFunc(all, func(name string) bool { return !ours(name) })
	}
	return names
}

type noLog struct{}

func (noLog) Printf(string, ...any) {}

// nothingRemains fails the test if something of locks is left on the server shortly after its clients have closed.
func (s lockServer) nothingRemains(t testing.TB) {
	t.Helper()
	var left []string
	stalls := pace.Watch(t)
	for begin := time.Now(); time.Since(begin) < 2*time.Second+lockLag+stalls.Since(begin); time.Sleep(50 * time.Millisecond) { // and look again
		if left = lockRemains(t, s.Store(), s.Addrs()[0]); len(left) == 0 {
			return
		}
	}
	t.Errorf("left on the server: %q", left)
}

// remainsOf is lockRemains for locktest: what is left of one root, and whatever sessions and leases a server that others
// use too did not have before.
func remainsOf(t testing.TB, srv *testserver.Server) func(t testing.TB, root string) []string {
	before := map[string]bool{}
	for _, name := range lockRemains(t, srv.Store(), srv.Addrs()[0]) {
		before[name] = true
	}
	return func(t testing.TB, root string) []string {
		return slices.DeleteFunc(lockRemains(t, srv.Store(), srv.Addrs()[0]), func(name string) bool {
			return before[name] || !strings.Contains(name, root)
		})
	}
}

// lockIn takes a lock of s and gives it back, and returns how long it waited.
func lockIn(t testing.TB, s *kv.Store, name string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lockPatience)
	defer cancel()
	start := time.Now()
	h, err := lock.Lock(ctx, s, name)
	if err != nil {
		t.Fatalf("the next contender: %v after %v", err, time.Since(start))
	}
	took := time.Since(start)
	if err := h.Unlock(ctx); err != nil {
		t.Errorf("the next contender's Unlock: %v", err)
	}
	return took
}
