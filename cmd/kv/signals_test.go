//go:build unix

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLockSignals signals kv as a terminal, a user and a supervisor do, and
// looks at which signals the command gets.
func TestLockSignals(t *testing.T) {
	const short, long = "300ms", "1m"
	for name, tc := range map[string]struct {
		command string
		stop    string // how long the command may take
		send    func(kv int) error
		want    []string
		status  int
	}{
		"interrupt from a terminal": {
			"tidies", long, func(kv int) error { return syscall.Kill(-kv, syscall.SIGINT) },
			[]string{"interrupt", "done"}, 0,
		},
		"interrupt from a terminal, which the command ignores": {
			"stays", short, func(kv int) error { return syscall.Kill(-kv, syscall.SIGINT) },
			[]string{"interrupt", "terminated"}, exitInterrupted,
		},
		"interrupt of kv alone": {
			"stays", short, func(kv int) error { return syscall.Kill(kv, syscall.SIGINT) },
			[]string{"terminated"}, exitInterrupted,
		},
		"termination of kv alone": {
			"stays", long, func(kv int) error { return syscall.Kill(kv, syscall.SIGTERM) },
			[]string{"terminated"}, exitInterrupted,
		},
		"termination while it waits": {
			"asks", long, func(kv int) error { return syscall.Kill(-kv, syscall.SIGINT) },
			[]string{"interrupt", "terminated"}, exitInterrupted,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// In a process group of its own, as a shell starts it.
			cmd := exec.Command(os.Args[0], "lock", "jobs/nightly", os.Args[0])
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Env = append(os.Environ(), "KV_TEST_CHILD=kv", "KV_TEST_COMMAND="+tc.command, "KV_TEST_STOP="+tc.stop,
				"KV_URL=bolt://"+filepath.Join(t.TempDir(), "kv.db"))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }).Stop()
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "running" {
				t.Fatalf("the command does not begin: %q", lines.Text())
			}
			if err := tc.send(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			var got []string
			for lines.Scan() {
				got = append(got, lines.Text())
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("the command tells %q; want %q", strings.Join(got, ", "), strings.Join(tc.want, ", "))
			}
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != tc.status {
				t.Errorf("%v; want status %d", cmd.ProcessState, tc.status)
			}
		})
	}
}
