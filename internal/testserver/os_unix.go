//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package testserver

import (
	"errors"
	"os"
	"syscall"
)

func supported() error { return nil }

// Kill implements Process.
func (p *process) Kill() error { return p.signal(syscall.SIGKILL) }

// Terminate implements Process.
func (p *process) Terminate() error { return p.signal(syscall.SIGTERM) }

// Resume implements Process.
func (p *process) Resume() error { return p.signal(syscall.SIGCONT) }

// Pause implements Process.
func (p *process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.awaitPaused()
}

// signal reaches the whole group, so that a helper, such as the one that saves Redis's snapshot, does not live on.
func (p *process) signal(sig syscall.Signal) error {
	if !p.Running() {
		return os.ErrProcessDone
	}
	err := syscall.Kill(-p.cmd.Process.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// tryLock takes the exclusive lock of an open file, which ends with the file or the process, and reports false if
// another has it.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
