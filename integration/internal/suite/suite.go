// Package suite runs the suites of drivers, locks and watches on a real server, whoever has started it.
package suite

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock/locktest"
	"github.com/polykv/kv/watch/watchtest"
)

// A Server is one node that a test may kill and pause.
type Server interface {
	Addrs() []string
	Kill(nodes ...int) error
	Restart(ctx context.Context, nodes ...int) error
	Pause(nodes ...int) error
	Resume(nodes ...int) error
}

// Driver returns the driver of a store, or nil.
func Driver(store testserver.Store) backend.Driver {
	switch store {
	case testserver.Etcd:
		return etcdkv.Driver{}
	case testserver.Consul:
		return consulkv.Driver{}
	case testserver.ZooKeeper:
		return zookeeperkv.Driver{}
	case testserver.Redis:
		return rediskv.Driver{}
	}
	return nil
}

// Conformance runs the conformance suite as programs use the store: by its URL. Connections break in a proxy; the server
// itself is killed and paused.
func Conformance(t *testing.T, store testserver.Store, server Server) {
	leaks := []goleak.Option{goleak.IgnoreAnyFunction(testserver.Goroutine)} // of a process that was restarted
	// The proxy's are not the driver's either: they go when the server notices that its client has, which Consul does not
	// before the query ends that it blocks, nor a container's port forwarding of a server that was killed.
	for _, name := range testserver.ProxyGoroutines() {
		leaks = append(leaks, goleak.IgnoreAnyFunction(name))
	}
	proxy := testserver.NewProxy(t, server.Addrs()[0])
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store { return open(t, store, proxy.Addr(), root) },
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			return foreignTo(t, store, server.Addrs()[0], root)
		},
		Requests: func() int64 { return proxy.Traffic().RequestChunks },
		Leaks:    leaks,
		Break:    func(testing.TB) { proxy.Cut() },
		Restart: func(t testing.TB) {
			if err := server.Kill(0); err != nil {
				t.Fatal(err)
			}
			if err := server.Restart(context.WithoutCancel(t.Context()), 0); err != nil {
				t.Fatal(err)
			}
		},
		Pause: func(t testing.TB) func() {
			if err := server.Pause(0); err != nil {
				t.Fatal(err)
			}
			resume := sync.OnceFunc(func() {
				if err := server.Resume(0); err != nil {
					t.Error(err)
				}
			})
			t.Cleanup(resume)
			return resume
		},
	})
}

// Watches runs the suite of package watch.
func Watches(t *testing.T, store testserver.Store, server Server) {
	watchtest.Run(t, watchtest.Harness{Open: func(t testing.TB, root string) backend.Store {
		return open(t, store, server.Addrs()[0], root)
	}})
}

// Locks runs the lock suite. Contenders take one lock less often than on the server of the drivers' own tests: how often
// is a matter of the driver, not of the server.
func Locks(t *testing.T, store testserver.Store, server Server) {
	locktest.Run(t, locktest.Harness{Acquisitions: 200, Open: func(t testing.TB, root string) backend.Store {
		return open(t, store, server.Addrs()[0], root)
	}})
}

func open(t testing.TB, store testserver.Store, addr, root string) backend.Store {
	t.Helper()
	u, err := backend.ParseURL(string(store) + "://" + addr + "/" + root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Driver(store).Open(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
