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
	"github.com/testcontainers/testcontainers-go"

	"github.com/polykv/kv/internal/testserver"
)

// dockerTimeout bounds a request to Docker that does not wait for a server.
const dockerTimeout = 30 * time.Second

// process is one run of a container. It asks Docker when it is asked, and keeps neither a goroutine nor a connection: tests
// look for leaks while a server runs.
type process struct {
	docker *testcontainers.DockerProvider
	id     string
	paused atomic.Bool
}

var _ testserver.Process = (*process)(nil)

// request makes a request to Docker and leaves no idle connection behind.
func (p *process) request(ctx context.Context, f func(context.Context, client.APIClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	defer p.docker.Close()
	return f(ctx, p.docker.Client())
}

// do tells Docker something about a container that runs.
func (p *process) do(f func(context.Context, client.APIClient) error) error {
	err := p.request(context.Background(), f)
	if (errdefs.IsConflict(err) || errdefs.IsNotFound(err)) && !p.Running() {
		return os.ErrProcessDone
	}
	return err
}

func (p *process) inspect() (state container.State, err error) {
	err = p.request(context.Background(), func(ctx context.Context, docker client.APIClient) error {
		c, err := docker.ContainerInspect(ctx, p.id, client.ContainerInspectOptions{})
		if err == nil {
			state = *c.Container.State
		}
		return err
	})
	return state, err
}

// Running implements testserver.Process. If Docker does not say, it is taken to run.
func (p *process) Running() bool {
	state, err := p.inspect()
	if err != nil {
		return !errdefs.IsNotFound(err)
	}
	return state.Running
}

// State implements testserver.Process.
func (p *process) State() string {
	state, err := p.inspect()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s, exit status %d", state.Status, state.ExitCode)
}

// Wait implements testserver.Process.
func (p *process) Wait(ctx context.Context) error {
	defer p.docker.Close()
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	waiting := p.docker.Client().ContainerWait(ctx, p.id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-waiting.Result:
		return nil
	case err := <-waiting.Error:
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}

// Kill implements testserver.Process.
func (p *process) Kill() error { return p.signal("SIGKILL") }

// Terminate implements testserver.Process.
func (p *process) Terminate() error { return p.signal("SIGTERM") }

func (p *process) signal(name string) error {
	return p.do(func(ctx context.Context, docker client.APIClient) error {
		_, err := docker.ContainerKill(ctx, p.id, client.ContainerKillOptions{Signal: name})
		return err
	})
}

// Pause implements testserver.Process.
func (p *process) Pause() error {
	err := p.do(func(ctx context.Context, docker client.APIClient) error {
		_, err := docker.ContainerPause(ctx, p.id, client.ContainerPauseOptions{})
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
	return p.do(func(ctx context.Context, docker client.APIClient) error {
		_, err := docker.ContainerUnpause(ctx, p.id, client.ContainerUnpauseOptions{})
		return err
	})
}
