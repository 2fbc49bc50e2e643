// Package containers starts etcd, Consul, ZooKeeper and Redis in containers, for the tests of programs that use kv:
//
//	func TestOrders(t *testing.T) {
//		server := containers.Start(t, containers.Etcd)
//		store, err := kv.Drivers{etcdkv.Driver{}}.Open(t.Context(), server.URL())
//		…
//	}
//
// The container is removed when the test ends. A server runs in its default configuration, save that it listens to the
// container's network, and without data from before.
//
// Each store's official image is used, at the version in Image; the variable KV_TEST_IMAGE_ETCD, or _CONSUL, _ZOOKEEPER,
// _REDIS, names another. integration/images/build makes some without a registry.
//
// Containers are started with testcontainers-go, whose reaper (Ryuk, a container as well) removes what a killed test
// leaves behind. Where its image cannot be had, TESTCONTAINERS_RYUK_DISABLED=true switches it off; then nobody does.
package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"

	"github.com/polykv/kv/internal/testserver"
)

// A Store is a kind of server. Its value is the scheme of its URLs.
type Store string

const (
	Etcd      Store = "etcd"
	Consul    Store = "consul"
	ZooKeeper Store = "zookeeper"
	Redis     Store = "redis"
)

// Stores returns every kind of server.
func Stores() []Store { return []Store{Etcd, Consul, ZooKeeper, Redis} }

// A kind is how a store runs in a container.
type kind struct {
	image string // official
	port  string
	cmd   []string // nil for the image's own
}

func kindOf(s Store) (kind, error) {
	switch s {
	case Etcd:
		return kind{"gcr.io/etcd-development/etcd:v3.6.5", "2379/tcp", []string{
			"etcd", "--data-dir=/tmp/data", "--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://0.0.0.0:2379",
		}}, nil
	case Consul:
		return kind{"hashicorp/consul:1.21.5", "8500/tcp", []string{
			"agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=0.0.0.0", "-data-dir=/consul/data",
		}}, nil
	case ZooKeeper:
		return kind{"zookeeper:3.9.4", "2181/tcp", nil}, nil
	case Redis:
		return kind{"redis:7.4.5", "6379/tcp", []string{"redis-server", "--protected-mode", "no"}}, nil
	}
	return kind{}, fmt.Errorf("containers: no such store: %q", s)
}

// Image returns the image that Start and Run use: the one that the environment names, or else the official one.
func Image(s Store) (string, error) {
	k, err := kindOf(s)
	if err != nil {
		return "", err
	}
	if image := os.Getenv("KV_TEST_IMAGE_" + strings.ToUpper(string(s))); image != "" {
		return image, nil
	}
	return k.image, nil
}

// A Server is a store in a container.
type Server struct {
	// Container is for what this package does not offer, such as stopping and starting.
	Container testcontainers.Container

	store          Store
	image, version string
	addr           string
}

// startTimeout bounds the wait for a server whose container runs. The time to pull an image does not count.
const startTimeout = 90 * time.Second

// Start runs a store for one test and removes it at the test's end. The test fails if that cannot be done; with -short it
// is skipped. If the test has failed by its end, it logs what the server wrote. Options come after the package's own.
func Start(t testing.TB, s Store, opts ...testcontainers.ContainerCustomizer) *Server {
	t.Helper()
	if testing.Short() {
		t.Skipf("not run on %s: -short", s)
	}
	server, err := Run(t.Context(), s, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("using %v", server)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s ends:\n%s", s, server.logTail(context.Background()))
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Run starts a store and returns once it takes reads and writes. The caller closes it.
func Run(ctx context.Context, s Store, opts ...testcontainers.ContainerCustomizer) (*Server, error) {
	k, err := kindOf(s)
	if err != nil {
		return nil, err
	}
	image, err := Image(s)
	if err != nil {
		return nil, err
	}
	own := []testcontainers.ContainerCustomizer{testcontainers.WithExposedPorts(k.port)}
	if k.cmd != nil {
		own = append(own, testcontainers.WithCmd(k.cmd...))
	}
	container, err := testcontainers.Run(ctx, image, append(own, opts...)...)
	server := &Server{store: s, image: image}
	if container != nil { // which may be so in spite of an error
		server.Container = container
	}
	if err == nil {
		err = server.await(ctx, k.port)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("containers: start %s from %s: %w", s, image, err), server.Close())
	}
	return server, nil
}

func (s *Server) await(ctx context.Context, port string) (err error) {
	if s.addr, err = address(ctx, s.Container, port); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.version, err = testserver.Await(ctx, testserver.Store(s.store), s.addr)
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, s.logTail(context.WithoutCancel(ctx)))
	}
	return nil
}

// address returns the host and port by which a container's port is reached. Docker may publish it at one port for IPv4 and
// another for IPv6, of which Container.MappedPort returns either. And Container.Host takes a container that runs Docker
// within itself for one beside it and returns the gateway, where nobody listens; then the ports are on loopback.
func address(ctx context.Context, c testcontainers.Container, port string) (string, error) {
	host, err := c.Host(ctx)
	if err != nil {
		return "", err
	}
	if host == "localhost" {
		host = "127.0.0.1" // not always IPv6 as well
	}
	inspected, err := c.Inspect(ctx)
	if err != nil {
		return "", err
	}
	parsed, err := network.ParsePort(port)
	if err != nil {
		return "", err
	}
	bindings := inspected.NetworkSettings.Ports[parsed]
	dialer := net.Dialer{Timeout: 5 * time.Second}
	err = fmt.Errorf("port %s is not published for %s: %v", port, host, bindings)
	for _, host := range []string{host, "127.0.0.1"} {
		for _, b := range bindings {
			if ip, err := netip.ParseAddr(host); err == nil && b.HostIP.IsValid() && b.HostIP.Is4() != ip.Is4() {
				continue // it may be another container's
			}
			addr := net.JoinHostPort(host, b.HostPort)
			var conn net.Conn
			if conn, err = dialer.DialContext(ctx, "tcp", addr); err == nil {
				return addr, conn.Close()
			}
		}
	}
	return "", err
}

// URL returns the address to open the store by, such as "etcd://127.0.0.1:32768".
func (s *Server) URL() string { return string(s.store) + "://" + s.addr }

// Addr returns the host and port that clients dial. It changes when the container is stopped and started.
func (s *Server) Addr() string { return s.addr }

// Version returns the server's own version, such as "3.6.5".
func (s *Server) Version() string { return s.version }

func (s *Server) String() string {
	return fmt.Sprintf("%s %s (container of %s)", s.store, s.version, s.image)
}

// Close removes the container and its data. It is idempotent.
func (s *Server) Close() error {
	if s.Container == nil {
		return nil
	}
	// Nothing is to be saved, so the server needs no time to stop.
	if err := testcontainers.TerminateContainer(s.Container, testcontainers.StopTimeout(0)); err != nil {
		return fmt.Errorf("containers: remove %s: %w", s.store, err)
	}
	return nil
}

// logTail returns the last few kilobytes that the server wrote, or why it cannot.
func (s *Server) logTail(ctx context.Context) string {
	const size = 4 << 10
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	logs, err := s.Container.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	text, err := io.ReadAll(logs)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-size):]))
}
