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

	// Persist makes acknowledged writes survive Kill. It changes Redis only, which then keeps an append-only file; the
	// others always do. Redis without it comes back with what its last snapshot held, usually nothing.
	Persist bool

	// Config holds further settings in the server's own form: flags for etcd ("--auto-compaction-retention=1"), lines of
	// the configuration file for Consul (HCL), ZooKeeper ("extendedTypesEnabled=true") and Redis
	// ("notify-keyspace-events KA").
	Config []string
}

// plain tells whether s asks for nothing beyond the default configuration.
func (s Spec) plain() bool { return !s.Persist && len(s.Config) == 0 }

// key is equal for equal specs.
func (s Spec) key() string { return fmt.Sprintf("%q %t %q", s.Store, s.Persist, s.Config) }

func (s Spec) validate() error {
	if _, err := programOf(s.Store); err != nil {
		return err
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
