package testserver

import (
	"errors"
	"fmt"
	"strings"
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

// A Spec says which server a test needs. Anything but Store departs from the server's default configuration.
type Spec struct {
	Store Store

	// Nodes makes a cluster of so many members of etcd, Consul or ZooKeeper. 0 means 1.
	Nodes int

	// Sentinel makes Redis a primary (node 0) with two replicas, watched by three sentinels (nodes 3 to 5), whose addresses
	// clients are given; they know the primary as SentinelMaster. Not with Cluster, TLS or Auth.
	Sentinel bool

	// Cluster makes Redis a Redis Cluster of three primaries (nodes 0 to 2) with a replica each (3 to 5). Not with TLS or
	// Auth.
	Cluster bool

	// TLS makes the server take TLS connections only, with certificates of clients (Server.TLS).
	TLS bool

	// Auth makes the server refuse whoever does not show one of the Credentials.
	Auth bool

	// Persist makes acknowledged writes survive Kill. It changes Redis only, which then keeps an append-only file; the
	// others always do. Redis without it comes back with what its last snapshot held, usually nothing.
	Persist bool

	// Apart gives each node a network and an address of its own, so that Server.Partition can cut it off. This takes Linux, the
	// rights to make networks (root) and the programs ip and nsenter; Launch gives ErrUnavailable elsewhere. Not with TLS.
	Apart bool

	// Config holds further settings in the server's own form: flags for etcd ("--auto-compaction-retention=1"), lines of
	// the configuration file for Consul (HCL), ZooKeeper ("extendedTypesEnabled=true") and Redis
	// ("notify-keyspace-events KA").
	Config []string
}

// plain tells whether s asks for nothing beyond the default configuration.
func (s Spec) plain() bool { return s.key() == Spec{Store: s.Store}.key() }

// key is equal for equal specs.
func (s Spec) key() string {
	return fmt.Sprintf("%q %d %t %t %t %t %t %t %q", s.Store, max(s.Nodes, 1), s.Sentinel, s.Cluster, s.TLS, s.Auth, s.Persist, s.Apart, s.Config)
}

// validate reports a spec that no server can meet.
func (s Spec) validate() error {
	if _, err := programOf(s); err != nil {
		return err
	}
	if s.Nodes < 0 || s.Nodes > 1 && s.Store == Redis {
		return fmt.Errorf("testserver: %s does not run as %d nodes", s.Store, s.Nodes)
	}
	if group := s.Sentinel || s.Cluster; group && (s.Store != Redis || s.TLS || s.Auth || s.Sentinel && s.Cluster) {
		return fmt.Errorf("testserver: no such combination: %+v", s)
	}
	if s.Apart && s.TLS { // the certificates are of 127.0.0.1
		return fmt.Errorf("testserver: no such combination: %+v", s)
	}
	for _, line := range s.Config {
		if strings.ContainsAny(line, "\n\x00") {
			return fmt.Errorf("testserver: setting %q of %s is more than one line", line, s.Store)
		}
	}
	return nil
}

// ErrUnavailable is matched by errors of Launch that mean that this machine cannot run the server: a package or tool is
// missing, or the environment forbids it. An error that does not match it is a failure of a server that should have run.
var ErrUnavailable = errors.New("server cannot be run here")

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}
