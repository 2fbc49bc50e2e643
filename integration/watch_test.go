package integration

import (
	"testing"

	"github.com/polykv/kv/watch/watchtest"
)

// TestWatches runs the rules of package watch on every store.
func TestWatches(t *testing.T) {
	onEveryStore(t, func(t *testing.T, open opener) {
		watchtest.Run(t, watchtest.Harness{Open: open})
	})
}
