package testserver

import (
	"context"
	"os/exec"
	"runtime"
)

// A process is a running server program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and was reaped
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = diesWithParent()
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// run starts the process and reaps it. It keeps its thread all the while: Linux kills the process when the thread that
// started it ends, which for a thread that other goroutines use may be before the test process does.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		_ = p.cmd.Wait() // the cause is in cmd.ProcessState
	}
}

// Running implements Process.
func (p *process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait implements Process.
func (p *process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// State implements Process.
func (p *process) State() string { return p.cmd.ProcessState.String() }
