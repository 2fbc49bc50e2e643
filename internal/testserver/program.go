package testserver

import (
	"context"
	"fmt"
)

// A program is what the rig has to know of one kind of server.
type program interface {
	// find returns the start of the command line that runs the server, building it if need be, or an error that
	// matches ErrUnavailable.
	find(ctx context.Context) (argv []string, err error)

	// ports is how many ports a node needs. Clients use the first.
	ports() int

	// configure writes the node's files below n.dir and returns the rest of the command line.
	configure(n *member, spec Spec) (args []string, err error)

	// probe returns the server's version once it takes reads and writes at addr, and an error until then.
	probe(ctx context.Context, addr string) (version string, err error)
}

// A member is the place of one node: what survives its process.
type member struct {
	dir   string // exists; the program makes what it needs below it
	ports []int  // of 127.0.0.1
}

func (m *member) addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", m.ports[port]) }

func programOf(s Store) (program, error) {
	switch s {
	case Etcd:
		return etcd{}, nil
	case Consul:
		return consul{}, nil
	case ZooKeeper:
		return zookeeper{}, nil
	case Redis:
		return redis{}, nil
	}
	return nil, fmt.Errorf("testserver: no such store: %q", s)
}
