package integration

import (
	"path"
	"slices"
	"testing"

	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock/locktest"
)

// TestLocks runs the rules of locks and elections on every store.
func TestLocks(t *testing.T) {
	onEveryStore(t, func(t *testing.T, open opener) {
		t.Parallel() // for one store that waits for a lease another one works
		h := locktest.Harness{Open: open}
		if store := testserver.Store(path.Base(t.Name())); slices.Contains(testserver.Stores(), store) {
			h.Remains = remainsOf(t, servers.Shared(t, testserver.Spec{Store: store}))
		}
		locktest.Run(t, h)
	})
}
