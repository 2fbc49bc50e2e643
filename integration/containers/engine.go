package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/polykv/kv/internal/testserver"
)

// engine runs the nodes of one server in containers. A single node has a port published. Of several, none has: they join
// the network of one more container, which publishes the ports of all and outlives each of them.
type engine struct {
	kind     kind
	settings settings
	docker   *testcontainers.DockerProvider
	host     string // where published ports are, says the library
	labels   map[string]string

	nodes      []testserver.LayoutNode
	files      []testcontainers.ContainerFile
	network    testcontainers.Container   // nil for a single node
	containers []testcontainers.Container // of the nodes, nil before the first start
}

// newEngine gets hold of Docker.
func newEngine(ctx context.Context, k kind, s settings) (_ *engine, err error) {
	docker, err := openDocker()
	if err != nil {
		return nil, err
	}
	e := &engine{kind: k, settings: s, docker: docker}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	e.host, err = docker.DaemonHost(ctx)
	return e, err
}

// openDocker does no I/O. The library panics where it finds no Docker to talk to.
func openDocker() (p *testcontainers.DockerProvider, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrUnavailable, r)
		}
	}()
	p, err = testcontainers.NewDockerProvider(testcontainers.WithLogger(log.NewNoopLogger()))
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return p, err
}

// Name implements testserver.Engine.
func (e *engine) Name() string { return "containers of " + e.settings.image }

// Listen implements testserver.Engine: what reaches a container's port comes from outside.
func (e *engine) Listen() string { return "0.0.0.0" }

// Place implements testserver.Engine.
func (e *engine) Place(ctx context.Context, l testserver.Layout) error {
	id, err := testserver.TempID()
	if err != nil {
		return err
	}
	e.labels = map[string]string{Label: l.Dir, labelTemp: id}
	if err := sweep(ctx, e.docker.Client(), id); err != nil {
		return err
	}
	if e.files, err = filesOf(l.Dir); err != nil {
		return err
	}
	e.nodes, e.containers = l.Nodes, make([]testcontainers.Container, len(l.Nodes))
	if len(e.nodes) == 1 {
		return nil
	}
	var ports []int
	for _, n := range e.nodes {
		ports = append(ports, n.Port)
	}
	req := e.request(e.kind.idle, nil)
	publish(&req, e.publishAt(), ports...)
	// Not a container with an error in an interface that is not nil.
	c, err := e.docker.CreateContainer(ctx, req)
	if c != nil {
		e.network = c
	}
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", testserver.ErrExited, err) // a port may be taken
	}
	return nil
}

// filesOf returns the files of a server. Its programs name them, so each is at the same place in a container.
func filesOf(dir string) (files []testcontainers.ContainerFile, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Dir(name) == dir { // the lock
			return err
		}
		files = append(files, testcontainers.ContainerFile{HostFilePath: name, ContainerFilePath: name, FileMode: 0o600})
		return nil
	})
	return files, err
}

// request is for a container that runs a command and its arguments.
func (e *engine) request(command, args []string) testcontainers.ContainerRequest {
	labels := make(map[string]string)
	for k, v := range e.labels {
		labels[k] = v
	}
	return testcontainers.ContainerRequest{
		Image: e.settings.image,
		// An image's own entry point may change to a user who cannot read the files.
		Entrypoint:     command[:1],
		Cmd:            slices.Concat(command[1:], args),
		Labels:         labels,
		ConfigModifier: func(c *container.Config) { c.User = "0:0" },
	}
}

// publishAt is the interface for published ports. To everybody only if it must be: who can reach a server may use it.
func (e *engine) publishAt() netip.Addr {
	if e.host == "localhost" || e.host == "127.0.0.1" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv4Unspecified()
}

// publish gives a container's ports the same numbers outside.
func publish(req *testcontainers.ContainerRequest, at netip.Addr, ports ...int) {
	bindings := make(network.PortMap)
	for _, p := range ports {
		port := network.MustParsePort(strconv.Itoa(p) + "/tcp")
		req.ExposedPorts = append(req.ExposedPorts, port.String())
		bindings[port] = []network.PortBinding{{HostIP: at, HostPort: strconv.Itoa(p)}}
	}
	req.HostConfigModifier = func(h *container.HostConfig) { h.PortBindings = bindings }
}

// Start implements testserver.Engine.
func (e *engine) Start(ctx context.Context, i int) (testserver.Process, error) {
	if e.containers[i] == nil {
		if err := e.create(ctx, i); err != nil {
			return nil, err
		}
	}
	c := e.containers[i]
	if err := c.Start(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w; its log ends:\n%s", testserver.ErrExited, err, e.Log(i))
	}
	return &process{docker: e.docker, id: c.GetContainerID()}, nil
}

func (e *engine) create(ctx context.Context, i int) error {
	req := testcontainers.GenericContainerRequest{ContainerRequest: e.request(e.kind.command, e.nodes[i].Args)}
	req.Files = slices.Clone(e.files)
	if e.network == nil {
		publish(&req.ContainerRequest, e.publishAt(), e.nodes[i].Port)
	} else {
		mode := container.NetworkMode("container:" + e.network.GetContainerID())
		req.HostConfigModifier = func(h *container.HostConfig) { h.NetworkMode = mode }
	}
	for _, o := range e.settings.custom {
		if err := o.Customize(&req); err != nil {
			return err
		}
	}
	c, err := e.docker.CreateContainer(ctx, req.ContainerRequest)
	if c != nil { // which may be so in spite of an error
		e.containers[i] = c
	}
	return err
}

// Host implements testserver.Engine. The library takes a container that runs Docker within itself for one beside it and
// returns the gateway, where nobody may listen; then the ports are on loopback.
func (e *engine) Host(ctx context.Context) (string, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	var errs []error
	for _, host := range []string{"127.0.0.1", e.host} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(e.nodes[0].Port)))
		if err == nil {
			return host, conn.Close()
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("%w: the published port is not reached: %w; the log ends:\n%s", testserver.ErrExited, errors.Join(errs...), e.Log(0))
}

// Log implements testserver.Engine.
func (e *engine) Log(i int) string {
	const size = 4 << 10
	if i >= len(e.containers) || e.containers[i] == nil {
		return "there is no container"
	}
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	logs, err := e.containers[i].Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer e.docker.Close()
	defer logs.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-size):]))
}

// Close implements testserver.Engine.
func (e *engine) Close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(e.containers)+1)
	remove := func(i int, c testcontainers.Container) {
		if c != nil {
			// Nothing is to be saved, so the servers need no time to stop.
			wg.Go(func() { errs[i] = testcontainers.TerminateContainer(c, testcontainers.StopTimeout(0)) })
		}
	}
	for i, c := range e.containers {
		remove(i, c)
	}
	wg.Wait()
	remove(len(e.containers), e.network) // which the others use
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("containers: remove: %w", err)
	}
	e.containers, e.network = nil, nil
	return e.docker.Close()
}

var _ testserver.Engine = (*engine)(nil)
