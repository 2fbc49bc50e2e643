package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// diesWithParent puts the process in a group of its own, which signals reach as a whole and a terminal's interrupt does
// not, and has the kernel kill it when the thread that starts it ends.
func diesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitPaused returns once every thread has stopped. The signal only asks them to: one that runs on another processor, or
// waits for the disk, goes on for a while and may answer a request yet.
func (p *process) awaitPaused() error {
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n, err := runningThreads(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if n == 0 || !p.Running() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d threads have not stopped within %v", n, patience)
		}
	}
}

func runningThreads(pid int) (n int, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return 0, err
	}
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, err
		}
		// PID (NAME) STATE …, and the name may hold anything; see proc(5).
		state := stat[bytes.LastIndexByte(stat, ')')+1:]
		if !bytes.HasPrefix(state, []byte(" T")) {
			n++
		}
	}
	return n, nil
}
