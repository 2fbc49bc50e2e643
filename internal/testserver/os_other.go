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

func (p *process) kill() error      { return errors.ErrUnsupported }
func (p *process) terminate() error { return errors.ErrUnsupported }
func (p *process) pause() error     { return errors.ErrUnsupported }
func (p *process) resume() error    { return errors.ErrUnsupported }

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }
