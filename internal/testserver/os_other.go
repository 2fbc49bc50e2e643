//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package testserver

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

func supported() error { return unavailable("the rig does not run processes on %s", runtime.GOOS) }

func diesWithParent() *syscall.SysProcAttr { return nil }

func (p *process) Kill() error      { return errors.ErrUnsupported }
func (p *process) Terminate() error { return errors.ErrUnsupported }
func (p *process) Pause() error     { return errors.ErrUnsupported }
func (p *process) Resume() error    { return errors.ErrUnsupported }

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }
