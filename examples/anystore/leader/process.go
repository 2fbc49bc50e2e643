package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
)

// process is a candidate with a process of its own.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	kill sync.Once
}

// startProcess starts this program with arguments.
func startProcess(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("a candidate: %w", err)
	}
	return p, nil
}

// Resign implements vote.Member.
func (p *process) Resign() error {
	_, err := p.in.Write([]byte{'\n'})
	return err
}

// Kill implements vote.Member: kill -9.
func (p *process) Kill() (err error) {
	p.kill.Do(func() {
		err = p.cmd.Process.Kill()
		_ = p.cmd.Wait() // says that it was killed
	})
	return err
}
