package consulkv_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }
