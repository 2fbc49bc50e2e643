package containers

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// process is one run of a container.
type process struct {
	docker client.APIClient
	id     string
	paused atomic.Bool
	done   chan struct{}
	state  string // once done
}

// startProcess follows a container that runs. The goroutine ends with the run, and with ctx.
func startProcess(ctx context.Context, docker client.APIClient, id string) *process {
	p := &process{docker: docker, id: id, done: make(chan struct{})}
	go p.wait(ctx)
	return p
}

func (p *process) wait(ctx context.Context) {
	defer close(p.done)
	waiting := p.docker.ContainerWait(ctx, p.id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case r := <-waiting.Result:
		p.state = fmt.Sprintf("exit status %d", r.StatusCode)
	case err := <-waiting.Error:
		p.state = fmt.Sprintf("unknown: %v", err)
	}
}

// Done implements testserver.Process.
func (p *process) Done() <-chan struct{} { return p.done }

// State implements testserver.Process.
func (p *process) State() string { return p.state }

// Kill implements testserver.Process.
func (p *process) Kill() error { return p.signal("SIGKILL") }

// Terminate implements testserver.Process.
func (p *process) Terminate() error { return p.signal("SIGTERM") }

func (p *process) signal(name string) error {
	return p.do(func(ctx context.Context) error {
		_, err := p.docker.ContainerKill(ctx, p.id, client.ContainerKillOptions{Signal: name})
		return err
	})
}

// Pause implements testserver.Process.
func (p *process) Pause() error {
	err := p.do(func(ctx context.Context) error {
		_, err := p.docker.ContainerPause(ctx, p.id, client.ContainerPauseOptions{})
		return err
	})
	if err == nil {
		p.paused.Store(true)
	}
	return err
}

// Resume implements testserver.Process.
func (p *process) Resume() error {
	if !p.paused.Swap(false) {
		return nil
	}
	return p.do(func(ctx context.Context) error {
		_, err := p.docker.ContainerUnpause(ctx, p.id, client.ContainerUnpauseOptions{})
		return err
	})
}

// do tells Docker something about a process that runs.
func (p *process) do(request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := request(ctx)
	if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		select {
		case <-p.done:
		case <-time.After(time.Second): // it is about to be told that the container has ended
			return err
		}
	}
	select {
	case <-p.done:
		if err != nil {
			return os.ErrProcessDone
		}
	default:
	}
	return err
}
