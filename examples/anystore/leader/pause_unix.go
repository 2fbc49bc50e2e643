//go:build unix

package main

import "syscall"

// Pause implements vote.Member.
func (p *process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume implements vote.Member.
func (p *process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }
