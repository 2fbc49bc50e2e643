package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	startTimeout = 90 * time.Second // from the start of a process until it serves
	stopTimeout  = 15 * time.Second // from SIGTERM until SIGKILL
)

var errNotRunning = errors.New("node is not running")

// ErrExited is matched when a server ended before it served, or could not begin. One more attempt, on other ports, is
// made then.
var ErrExited = errors.New("server exited")

// A node is one server process, or the place of one.
type node struct {
	*member
	cluster *cluster
	index   int // in the cluster
	prog    program
	engine  Engine

	mu   sync.Mutex
	proc Process // nil before the first start
}

// await returns the server's version once it serves. It has been started before.
func (n *node) await(ctx context.Context) (version string, err error) {
	n.mu.Lock()
	proc := n.proc
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	version, err = n.serves(ctx, proc.Running)
	switch {
	case errors.Is(err, ErrExited):
		err = fmt.Errorf("%w (%v); its log ends:\n%s", err, proc.State(), n.engine.Log(n.index))
	case err != nil:
		err = fmt.Errorf("server does not serve: %w; its log ends:\n%s", err, n.engine.Log(n.index))
	}
	return version, err
}

// serves probes the server until it serves, has exited or ctx ends.
func (n *node) serves(ctx context.Context, running func() bool) (version string, err error) {
	const shortest, longest = 20 * time.Millisecond, 250 * time.Millisecond
	answers := 0
	for wait := shortest; ; wait = min(2*wait, longest) {
		version, err = n.probe(ctx)
		if err != nil {
			answers = 0
			if !running() {
				return "", ErrExited
			}
		} else if answers++; answers == 2 && running() {
			// Twice in a row: a leader that has just been elected may be on the way out again, and somebody else may answer
			// on the port of a server that has failed to get it and is about to exit.
			return version, nil
		} else {
			wait = shortest
		}
		select {
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
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc != nil && n.proc.Running() {
		return errors.New("node is running already")
	}
	if m, ok := n.prog.(mender); ok {
		if err := m.mend(n.member); err != nil {
			return err
		}
	}
	proc, err := n.engine.Start(ctx, n.index)
	if err != nil {
		return err
	}
	n.proc = proc
	return nil
}

// running returns the process, or nil if there is none.
func (n *node) running() Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == nil || !n.proc.Running() {
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
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.Wait(context.Background())
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
	for _, signal := range []func() error{p.Resume, p.Terminate} {
		if err := signal(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	if err := p.Wait(ctx); err != nil {
		return errors.Join(fmt.Errorf("server did not stop: %w", err), n.kill())
	}
	return nil
}

func (n *node) pause() error {
	if p := n.running(); p != nil {
		return p.Pause()
	}
	return errNotRunning
}

func (n *node) resume() error {
	if p := n.running(); p != nil {
		return p.Resume()
	}
	return errNotRunning
}
