package containers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/testcontainers/testcontainers-go"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// A Server is a store in containers. Its methods are safe for concurrent use.
type Server struct {
	store  Store
	image  string
	spec   testserver.Spec
	server *testserver.Server
	engine *engine
}

// Start runs a store for one test and removes it at the test's end. The test fails if that cannot be done; with -short it
// is skipped. If the test has failed by its end, it logs what the server wrote.
func Start(t testing.TB, store Store, opts ...Option) *Server {
	t.Helper()
	if testing.Short() {
		t.Skipf("not run on %s: -short", store)
	}
	s, err := Run(t.Context(), store, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("using %v at %s", s, s.URL(""))
	t.Cleanup(func() {
		if t.Failed() {
			for i := range s.Nodes() {
				t.Logf("log of %s, node %d, ends:\n%s", store, i, s.Log(i))
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Run starts a store and returns once it takes reads and writes. ctx bounds the start, which may pull an image. The caller
// closes the server.
func Run(ctx context.Context, store Store, opts ...Option) (*Server, error) {
	k, err := kindOf(store)
	if err != nil {
		return nil, err
	}
	o, err := newSettings(store, opts)
	if err != nil {
		return nil, err
	}
	s := &Server{store: store, image: o.image, spec: o.spec}
	s.server, err = testserver.LaunchIn(ctx, o.spec, func() (testserver.Engine, error) {
		s.engine, err = newEngine(ctx, k, o)
		return s.engine, err
	})
	if err != nil {
		return nil, fmt.Errorf("containers: start %s from %s: %w", store, o.image, err)
	}
	return s, nil
}

// Open starts the store of a driver for one test and opens it, as Start and Server.Open do.
func Open(t testing.TB, d backend.Driver, opts ...Option) *kv.Store {
	t.Helper()
	schemes := d.Schemes()
	for _, store := range Stores() {
		if slices.Contains(schemes, string(store)) {
			return Start(t, store, opts...).Open(t, d, "test")
		}
	}
	t.Fatalf("containers: no store has a scheme of %q", schemes)
	return nil
}

// Open opens the keys below root and closes the store when the test ends. The test fails if it cannot be opened. Stores
// on one root are clients of the same keys.
func (s *Server) Open(t testing.TB, d backend.Driver, root string, opts ...kv.Option) *kv.Store {
	t.Helper()
	store, err := kv.Drivers{d}.Open(t.Context(), s.URL(root), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// URL returns the address to open the keys below root by, such as "etcd://127.0.0.1:12379/orders". On a Redis Cluster, which
// keeps the keys of a store together by it, a root has braces: they are added if there are none. Of several nodes of Consul it
// names the first, for its clients speak to one agent.
func (s *Server) URL(root string) string {
	scheme, query, addrs := string(s.store), "", s.server.Addrs()
	switch {
	case s.store == Consul:
		addrs = addrs[:1] // its clients speak to one agent
	case s.spec.Sentinel:
		scheme, query = "redis+sentinel", "?master="+testserver.SentinelMaster
	case s.spec.Cluster:
		scheme = "redis+cluster"
		if root != "" && !strings.Contains(root, "{") {
			root = "{" + root + "}"
		}
	}
	if root != "" {
		root = "/" + root
	}
	return scheme + "://" + strings.Join(addrs, ",") + root + query
}

// Addrs returns the host and port that clients dial: of each node, or of each sentinel.
func (s *Server) Addrs() []string { return s.server.Addrs() }

// Version returns the server's own version, such as "3.6.5".
func (s *Server) Version() string { return s.server.Version() }

// Nodes returns how many nodes there are.
func (s *Server) Nodes() int { return s.server.Nodes() }

// Container returns the container of a node, for what this package does not offer.
func (s *Server) Container(node int) testcontainers.Container { return s.engine.containers[node] }

// Kill ends nodes without any chance to tidy up, and returns once they are gone. Nodes count from 0; to name none means
// all, here and in the methods that follow. It is no error if one does not run.
func (s *Server) Kill(nodes ...int) error { return s.server.Kill(nodes...) }

// Stop asks nodes to end, as an operator would, and returns once they have, one after the other. A node that does not end
// within 15 s, or until ctx ends, is killed and the error says so.
func (s *Server) Stop(ctx context.Context, nodes ...int) error { return s.server.Stop(ctx, nodes...) }

// Pause makes nodes unresponsive, without closing their connections, until Resume.
func (s *Server) Pause(nodes ...int) error { return s.server.Pause(nodes...) }

// Resume lets paused nodes go on. It is no error if a node was not paused.
func (s *Server) Resume(nodes ...int) error { return s.server.Resume(nodes...) }

// Restart starts nodes again with their addresses and data, after stopping them as Stop does if they run, and returns
// once all of them serve. Nodes that cannot serve without each other have to be named in one call.
func (s *Server) Restart(ctx context.Context, nodes ...int) error {
	return s.server.Restart(ctx, nodes...)
}

// Log returns the end of what a node has written to its standard output and error.
func (s *Server) Log(node int) string { return s.server.Log(node) }

func (s *Server) String() string {
	nodes := ""
	if n := s.Nodes(); n > 1 {
		nodes = fmt.Sprintf("%d ", n)
	}
	return fmt.Sprintf("%s %s (%scontainers of %s)", s.store, s.Version(), nodes, s.image)
}

// Close removes the containers and their data. It is idempotent.
func (s *Server) Close() error { return s.server.Close() }
