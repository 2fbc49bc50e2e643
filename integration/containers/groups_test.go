package containers_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/integration/containers"
	"github.com/polykv/kv/integration/internal/suite"
	"github.com/polykv/kv/internal/testserver"
)

func driverOf(s containers.Store) backend.Driver { return suite.Driver(testserver.Store(s)) }

// TestGroups loses one server of several: what was written stays, a watch goes on, and the next write works. Consul's
// driver uses one address, so there it is another server that goes.
func TestGroups(t *testing.T) {
	for _, group := range []struct {
		name   string
		store  containers.Store
		option containers.Option
		nodes  int
		lost   int
	}{
		{"three etcd", containers.Etcd, containers.Nodes(3), 3, 0},
		{"three Consul", containers.Consul, containers.Nodes(3), 3, 1},
		{"three ZooKeeper", containers.ZooKeeper, containers.Nodes(3), 3, 0},
		{"Redis Cluster", containers.Redis, containers.Cluster(), 6, 0},
		{"Redis Sentinel", containers.Redis, containers.Sentinel(), 6, 0},
	} {
		t.Run(group.name, func(t *testing.T) {
			needDocker(t, group.store)
			t.Parallel()
			server := containers.Start(t, group.store, group.option)
			if server.Nodes() != group.nodes {
				t.Fatalf("%d nodes, want %d", server.Nodes(), group.nodes)
			}
			store := server.Open(t, driverOf(group.store), "orders")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			w, err := store.Watch(ctx, "", kv.FromSnapshot())
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if _, err := store.Put(ctx, "before", []byte("1")); err != nil {
				t.Fatal(err)
			}
			await(ctx, t, w, "before")
			lost := group.lost
			if group.store == containers.Redis {
				lost = primary(ctx, t, server)
			}
			if err := server.Kill(lost); err != nil {
				t.Fatal(err)
			}
			// The others need a moment to elect a leader.
			testserver.Eventually(t, time.Minute, "a write without the node that was killed", func() bool {
				_, err := store.Put(ctx, "after", []byte("2"))
				return err == nil
			})
			await(ctx, t, w, "after")
			e, err := store.Get(ctx, "before")
			if err != nil || string(e.Value) != "1" {
				t.Errorf("what was written before is %q, %v", e.Value, err)
			}
			if err := server.Restart(ctx, lost); err != nil {
				t.Error(err)
			}
		})
	}
}

// primary returns the node that has the keys of the Redis, when a replica has them too: what is not replicated is lost
// with it, and may be.
func primary(ctx context.Context, t *testing.T, server *containers.Server) (node int) {
	t.Helper()
	addrs := server.Addrs()
	var c *redis.Client
	if strings.HasPrefix(server.URL(""), "redis+cluster:") {
		cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
		defer cluster.Close()
		var err error
		if c, err = cluster.MasterForKey(ctx, "{orders}"); err != nil {
			t.Fatal(err)
		}
		node = slices.Index(addrs, c.Options().Addr)
	} else {
		c = redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "kv", SentinelAddrs: addrs})
		defer c.Close()
	}
	if n, err := c.Wait(ctx, 1, 10*time.Second).Result(); err != nil || n < 1 {
		t.Fatalf("%d replicas have the write, %v", n, err)
	}
	return node
}

func await(ctx context.Context, t *testing.T, w *kv.Watch[[]byte], key string) {
	t.Helper()
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Key == key {
			return
		}
	}
}
