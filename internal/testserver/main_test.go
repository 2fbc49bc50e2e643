package testserver

import (
	"flag"
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
	// The root module's tests need no server and are quick: those of the rig itself start dozens, and run where somebody
	// asks for servers, as "make test" does.
	flag.Parse()
	if os.Getenv("KV_TEST_REQUIRE") == "" {
		if err := flag.Set("test.short", "true"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
