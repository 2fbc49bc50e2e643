package rediskv_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// startCluster starts a cluster of one server.
func startCluster(t *testing.T) *testserver.Server {
	srv := testserver.Start(t, testserver.Spec{
		Store: testserver.Redis, Config: []string{"cluster-enabled yes", "notify-keyspace-events KA"},
	})
	client := newClient(t, srv)
	if err := client.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster is up", func() bool { return client.Set(t.Context(), "up", "", 0).Err() == nil })
	return srv
}

func newClusterClient(t testing.TB, srv *testserver.Server) *redis.ClusterClient {
	return clusterClient(t, srv, redis.ClusterOptions{})
}

func clusterClient(t testing.TB, srv *testserver.Server, o redis.ClusterOptions) *redis.ClusterClient {
	o.Addrs = srv.Addrs()
	client := redis.NewClusterClient(&o)
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("closing the client: %v", err)
		}
	})
	return client
}

// TestConformanceOnCluster is the suite on Redis Cluster, where all keys below a root have to be in one slot, messages
// are sharded, and go-redis sends requests where they belong.
func TestConformanceOnCluster(t *testing.T) {
	srv := startCluster(t)
	var requests counter
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			d := rediskv.NewDialer(nil)
			client := clusterClient(t, srv, redis.ClusterOptions{Dialer: d.Dial, ContextTimeoutEnabled: true})
			client.AddHook(&requests)
			return rediskv.New(client, rediskv.Options{Root: "{" + root + "}", Dialer: d})
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			return foreign{newClient(t, srv), "{" + root + "}"}
		},
		Requests: requests.n.Load,
	})
}

func TestClusterNeedsOneSlot(t *testing.T) {
	srv := startCluster(t)
	for _, o := range []rediskv.Options{{Root: "plain"}, {Root: "{}x"}, {Root: "{a}", Meta: "{b}"}, {}} {
		s := rediskv.New(newClusterClient(t, srv), o)
		if _, err := s.Put(t.Context(), "k", nil, backend.PutOptions{}); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", o, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": srv.Addrs()[0]}})
	defer ring.Close()
	s := rediskv.New(ring, rediskv.Options{Root: "{a}"})
	defer s.Close()
	if err := s.Ping(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a Ring: %v, want ErrUnsupported", err)
	}
}
