package boltkv_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/boltkv/internal/conformance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The file is synced as it is for users, whose writes then gather while one is being synced.
func TestConformance(t *testing.T) { conformance.Run(t, boltkv.Options{}, false) }
