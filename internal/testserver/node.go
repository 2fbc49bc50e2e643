package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

const (
	startTimeout = 90 * time.Second // from the start of a process until it serves
	stopTimeout  = 15 * time.Second // from SIGTERM until SIGKILL
)

var errNotRunning = errors.New("node is not running")

// errExited is matched when a server ended before it served.
var errExited = errors.New("server exited")

// A node is one server process, or the place of one.
type node struct {
	*member
	cluster *cluster
	index   int // in the cluster
	prog    program
	argv    []string

	mu   sync.Mutex
	proc *process // nil before the first start
}

func (n *node) logFile() string { return filepath.Join(n.dir, "server.log") }

// await returns the server's version once it serves. It has been started before.
func (n *node) await(ctx context.Context) (version string, err error) {
	n.mu.Lock()
	proc := n.proc
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	version, err = n.serves(ctx, proc.done, proc.running)
	switch {
	case errors.Is(err, errExited):
		err = fmt.Errorf("%w (%v); its log ends:\n%s", err, proc.cmd.ProcessState, n.logTail())
	case err != nil:
		err = fmt.Errorf("server does not serve: %w; its log ends:\n%s", err, n.logTail())
	}
	return version, err
}

// serves probes the server until it serves, has exited or ctx ends.
func (n *node) serves(ctx context.Context, exited <-chan struct{}, running func() bool) (version string, err error) {
	const shortest, longest = 20 * time.Millisecond, 250 * time.Millisecond
	answers := 0
	for wait := shortest; ; wait = min(2*wait, longest) {
		version, err = n.probe(ctx)
		if err != nil {
			answers = 0
		} else if answers++; answers == 2 && running() {
			// Twice in a row: a leader that has just been elected may be on the way out again, and somebody else may answer
			// on the port of a server that has failed to get it and is about to exit.
			return version, nil
		} else {
			wait = shortest
		}
		select {
		case <-exited:
			return "", errExited
		case <-ctx.Done():
			return "", fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		case <-time.After(wait):
		}
	}
}

func (n *node) probe(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return n.prog.probe(ctx, n.cluster, n.index)
}

// start runs the server's process.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil && n.proc.running() {
		return errors.New("node is running already")
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own copy
	cmd := exec.Command(n.argv[0], n.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	proc, err := startProcess(cmd)
	if err != nil {
		return err
	}
	n.proc = proc
	return nil
}

// running returns the process, or nil if there is none.
func (n *node) running() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil || !n.proc.running() {
		return nil
	}
	return n.proc
}

// kill ends the process at once, a paused one too. It is no error if there is none.
func (n *node) kill() error {
	p := n.running()
	if p == nil {
		return nil
	}
	if err := p.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// stop asks the process to end, and kills it when ctx ends or stopTimeout has passed.
func (n *node) stop(ctx context.Context) error {
	p := n.running()
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	// A paused process would not hear the request.
	for _, signal := range []func() error{p.resume, p.terminate} {
		if err := signal(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("server did not stop: %w", context.Cause(ctx)), n.kill())
	}
}

func (n *node) pause() error {
	if p := n.running(); p != nil {
		return p.pause()
	}
	return errNotRunning
}

func (n *node) resume() error {
	if p := n.running(); p != nil {
		return p.resume()
	}
	return errNotRunning
}

// logTail returns the last few kilobytes that the server wrote.
func (n *node) logTail() string {
	const size = 4 << 10
	f, err := os.Open(n.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > size {
		_, _ = f.Seek(-size, io.SeekEnd) // fails only where the first one does
	} else {
		_, _ = f.Seek(0, io.SeekStart)
	}
	tail, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(tail))
}
