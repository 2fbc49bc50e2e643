package containers_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/integration/containers"
	"github.com/polykv/kv/internal/testserver"
)

// ownerProcess makes this test binary, run again, a process that owns containers and is killed.
const ownerProcess = "KV_CONTAINERS_OWNER"

// TestLeftovers kills a process that has started a server. Its containers go when the next server starts, if the reaper
// has not been faster; those of processes that live stay.
func TestLeftovers(t *testing.T) {
	if os.Getenv(ownerProcess) != "" {
		s := containers.Start(t, containers.Redis)
		if _, err := os.Stdout.WriteString("server " + s.Addrs()[0] + "\n"); err != nil {
			t.Fatal(err)
		}
		select {} // until it is killed
	}
	needDocker(t, containers.Redis)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLeftovers$")
	cmd.Env = append(os.Environ(), ownerProcess+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	for lines := bufio.NewScanner(out); addr == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "server "); ok {
			addr = rest
		}
	}
	// One that lives starts another server, and takes nothing away.
	mine := containers.Start(t, containers.Redis)
	if addr == "" || !answers(t, addr) {
		t.Errorf("the server of a process that lives has gone: %q", addr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	containers.Start(t, containers.Redis)
	testserver.Eventually(t, 20*time.Second, "the server of a dead process is gone", func() bool { return !answers(t, addr) })
	if !answers(t, mine.Addrs()[0]) {
		t.Error("a server that is in use has been removed")
	}
}
