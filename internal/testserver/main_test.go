package testserver

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// ownerProcess makes this test binary, run again, a process that owns servers and is killed.
const ownerProcess = "KV_TESTSERVER_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerProcess) != "" {
		os.Exit(m.Run()) // killed before its end, so there is nothing to check
	}
	goleak.VerifyTestMain(m)
}
