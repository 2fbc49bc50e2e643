package containers_test

import (
	"testing"

	"github.com/polykv/kv/integration/containers"
	"github.com/polykv/kv/integration/internal/suite"
	"github.com/polykv/kv/internal/testserver"
)

// TestSuites runs all of the conformance, lock and watch suites on a server of each store in a container. The slowest begins.
func TestSuites(t *testing.T) {
	for _, store := range []containers.Store{containers.Consul, containers.ZooKeeper, containers.Etcd, containers.Redis} {
		child, other := suite.Child(string(store))
		switch {
		case child:
			// Redis is to remember, as the suite kills it and asks for what was acknowledged.
			server := containers.Start(t, store, containers.Persist())
			t.Run("conformance", func(t *testing.T) { suite.Conformance(t, testserver.Store(store), server) })
			t.Run("locks", func(t *testing.T) { suite.Locks(t, testserver.Store(store), server) })
			t.Run("watches", func(t *testing.T) { suite.Watches(t, testserver.Store(store), server) })
		case !other:
			t.Run(string(store), func(t *testing.T) {
				needDocker(t, store)
				t.Parallel()
				suite.Rerun(t, string(store)).Complete(t)
			})
		}
	}
}
