package testserver

import "syscall"

// diesWithParent puts the process in a group of its own, which signals reach as a whole and a terminal's interrupt does
// not, and has the kernel kill it when the thread that starts it ends.
func diesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
