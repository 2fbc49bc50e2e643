//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package testserver

import "syscall"

// diesWithParent puts the process in a group of its own, which signals reach as a whole. These systems cannot tie its
// life to ours: it outlives a test process that is killed or panics.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitPaused does nothing: these systems do not tell of each thread.
func (p *process) awaitPaused() error { return nil }
