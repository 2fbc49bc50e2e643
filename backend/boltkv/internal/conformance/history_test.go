package conformance

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend/boltkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What History adds has nothing to do with syncing. boltkv.TestKill looks after that.
func TestConformanceWithHistory(t *testing.T) {
	Run(t, boltkv.Options{History: &boltkv.History{}}, true)
}
