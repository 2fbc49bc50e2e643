package integration

import (
	"testing"

	"github.com/polykv/kv/lock/locktest"
)

// TestLocks runs the rules of locks and elections on every store.
func TestLocks(t *testing.T) {
	onEveryStore(t, func(t *testing.T, open opener) {
		locktest.Run(t, locktest.Harness{Open: open})
	})
}
