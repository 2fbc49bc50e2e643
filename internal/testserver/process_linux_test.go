package testserver

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestOwnerProcess(t *testing.T) {
	if os.Getenv(ownerProcess) == "" {
		t.Skip("a part of TestServersDieWithTheirOwner, which runs it in a process of its own")
	}
	s := Start(t, Spec{Store: Redis})
	if _, err := os.Stdout.WriteString("server " + s.Addrs()[0] + " " + s.dir.path + "\n"); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

func TestServersDieWithTheirOwner(t *testing.T) {
	skipWithout(t, Redis)
	cmd := exec.Command(os.Args[0], "-test.run=^TestOwnerProcess$")
	cmd.Env = append(os.Environ(), ownerProcess+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr, dir string
	lines := bufio.NewScanner(out)
	for addr == "" && lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "server" {
			addr, dir = f[1], f[2]
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	if addr == "" {
		t.Fatal("the owner started no server")
	}
	eventually(t, "the server is gone", func() bool { return refuses(addr) })

	// Its directory goes when the next server starts. (Any process on the machine may be that.)
	d, err := newTempDir("sweep")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory of a dead owner: %v", err)
	}
	// One that is in use stays.
	removeAbandoned(os.TempDir())
	if _, err := os.Stat(d.path); err != nil {
		t.Error(err)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
