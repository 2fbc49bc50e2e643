package integration

import (
	"context"
	"flag"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/peers"
	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests of locks wait for leases to end and leave the machine to others meanwhile.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(servers.M(m))
}

// opener opens another client of one store on a root, as another process would
// where the store has processes.
type opener func(t testing.TB, root string) backend.Store

// everyStore are all stores, with how a test gets at each, by the constructor that users call.
var everyStore = []struct {
	name string
	open func(t testing.TB) opener
}{
	{"memory", memory},
	{"bolt", bolt},
	{"etcd", byURL(testserver.Etcd)},
	{"consul", byURL(testserver.Consul)},
	{"zookeeper", byURL(testserver.ZooKeeper)},
	{"redis", redisStore},
}

// onEveryStore runs f for each store.
func onEveryStore(t *testing.T, f func(t *testing.T, open opener)) {
	for _, st := range everyStore {
		t.Run(st.name, func(t *testing.T) { f(t, st.open(t)) })
	}
}

// memory gives clients of the same keys in memory.
func memory(t testing.TB) opener {
	return peers.Stores(func(string) *memkv.Store { return memkv.New(memkv.Options{}) })
}

// bolt gives clients of one open file: a second process could not open it, and
// a second Store on one root would take the writing over.
func bolt(t testing.TB) opener {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return peers.Stores(func(root string) *boltkv.Store { return boltkv.New(db, boltkv.Options{Root: root}) })
}

func byURL(store testserver.Store) func(t testing.TB) opener {
	return func(t testing.TB) opener {
		srv := servers.Shared(t, testserver.Spec{Store: store})
		return func(t testing.TB, root string) backend.Store { return openDriver(t, srv.URL()+"/"+root) }
	}
}

// openDriver opens a store below package kv, for the caller to close.
func openDriver(t testing.TB, url string) backend.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := drivers.Open(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	return s.Backend()
}

func redisStore(t testing.TB) opener {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	return func(t testing.TB, root string) backend.Store {
		c := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0]})
		t.Cleanup(func() { c.Close() })
		return rediskv.New(c, rediskv.Options{Root: root})
	}
}

// ownConsul is a store on the caller's own HTTP client.
func ownConsul(addr, root string, own *http.Client) *consulkv.Store {
	return consulkv.New(&api.Config{Address: addr, HttpClient: own}, consulkv.Options{Root: root})
}
