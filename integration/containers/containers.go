// Package containers starts etcd, Consul, ZooKeeper and Redis in containers, for the tests of programs that use kv:
//
//	func TestOrders(t *testing.T) {
//		store := containers.Open(t, etcdkv.Driver{}) // a *kv.Store on a server of its own
//		…
//	}
//
// The driver says which store; only the drivers that the test imports are linked. Start gives the server as well, which
// can be killed, paused and restarted at its address, and may have several nodes:
//
//	server := containers.Start(t, containers.Etcd, containers.Nodes(3))
//	store := server.Open(t, etcdkv.Driver{}, "orders")
//	server.Kill(0) // two of three go on
//
// Redis knows Cluster and Sentinel in place of Nodes. Everything is removed when the test ends.
//
// # Servers
//
// A server runs in its default configuration and without data from before, save what several servers on one machine
// cannot share. Its port is published on 127.0.0.1, or on every interface where Docker is not on this machine, and stays
// the same in a restart. The nodes of a server share one network, which a container of its own holds, so that they and
// their clients use the same addresses. Servers run as root within their containers.
//
// # Images
//
// Each store's official image is used, at the version in Image; the variable KV_TEST_IMAGE_ETCD, or _CONSUL, _ZOOKEEPER,
// _REDIS, names another, and so does the option From. integration/images/build makes some without a registry.
//
// # What is left behind
//
// Nothing, if the test process ends in any way but by being killed or by a panic. Then testcontainers-go's reaper (Ryuk, a
// container as well) removes its containers within seconds. Where its image cannot be had, TESTCONTAINERS_RYUK_DISABLED=true
// switches it off, and the containers go when this package next starts a server on the machine. They have the label in
// Label:
//
//	docker rm -fv $(docker ps -aq --filter label=com.github.polykv.kv.dir)
package containers

import (
	"fmt"
	"os"
	"strings"

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

// An Option changes how a server is started.
type Option func(*settings)

type settings struct {
	spec   testserver.Spec
	image  string
	custom []testcontainers.ContainerCustomizer
}

// Nodes makes a cluster of n members of etcd, Consul or ZooKeeper.
func Nodes(n int) Option { return func(s *settings) { s.spec.Nodes = n } }

// Cluster makes Redis a Redis Cluster of three primaries (nodes 0 to 2) with a replica each (3 to 5).
func Cluster() Option { return func(s *settings) { s.spec.Cluster = true } }

// Sentinel makes Redis a primary (node 0) with two replicas (1 and 2), which three sentinels watch (3 to 5).
func Sentinel() Option { return func(s *settings) { s.spec.Sentinel = true } }

// Persist makes acknowledged writes survive Kill on Redis, which keeps nothing by default. The others always do.
func Persist() Option { return func(s *settings) { s.spec.Persist = true } }

// Config adds settings in the server's own form: flags for etcd ("--auto-compaction-retention=1"), lines of the
// configuration file for Consul (HCL), ZooKeeper ("extendedTypesEnabled=true") and Redis ("notify-keyspace-events KA").
func Config(lines ...string) Option {
	return func(s *settings) { s.spec.Config = append(s.spec.Config, lines...) }
}

// From chooses the image, before the environment. It needs the same programs as the official one, in its PATH: etcd,
// consul, redis-server, or zkServer.sh; and sleep for several nodes of any but etcd.
func From(image string) Option { return func(s *settings) { s.image = image } }

// Customize adds options of testcontainers-go for every node's container, which come after the package's own.
func Customize(opts ...testcontainers.ContainerCustomizer) Option {
	return func(s *settings) { s.custom = append(s.custom, opts...) }
}

func newSettings(store Store, opts []Option) (settings, error) {
	s := settings{spec: testserver.Spec{Store: testserver.Store(store)}}
	for _, o := range opts {
		if o != nil {
			o(&s)
		}
	}
	var err error
	if s.image == "" {
		s.image, err = Image(store)
	}
	return s, err
}

// A kind is how a store runs in a container.
type kind struct {
	image   string   // official
	command []string // that runs a server, given the arguments of the nodes
	idle    []string // that does nothing
}

var sleep = []string{"sleep", "2147483647"}

func kindOf(s Store) (kind, error) {
	switch s {
	case Etcd:
		// The image has no other program. A gateway to nowhere waits for clients, who cannot reach it.
		return kind{"gcr.io/etcd-development/etcd:v3.6.5", []string{"etcd"}, []string{
			"etcd", "gateway", "start", "--listen-addr=127.0.0.1:1", "--endpoints=127.0.0.1:2",
		}}, nil
	case Consul:
		return kind{"hashicorp/consul:1.21.5", []string{"consul", "agent"}, sleep}, nil
	case ZooKeeper:
		return kind{"zookeeper:3.9.4", []string{"zkServer.sh", "start-foreground"}, sleep}, nil
	case Redis:
		return kind{"redis:7.4.5", []string{"redis-server"}, sleep}, nil
	}
	return kind{}, fmt.Errorf("containers: no such store: %q", s)
}

// Image returns the image that is used unless From names another: the one in the environment, or else the official one.
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
