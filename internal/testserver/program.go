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

	// nodes is how many processes the spec takes, each with so many ports.
	nodes(spec Spec) (n, ports int)

	// clients returns the addresses that clients are given.
	clients(c *cluster) []string

	// configure writes the files of node i below its directory and returns the rest of the command line. The places of
	// all nodes are known by then.
	configure(c *cluster, i int) (args []string, err error)

	// probe returns the server's version once node i takes reads and writes, and an error until then.
	probe(ctx context.Context, c *cluster, i int) (version string, err error)

	// setUp does what can only be done to running servers, such as making users: once, when each node has passed its
	// first probe.
	setUp(ctx context.Context, c *cluster) error
}

// A cluster is what the nodes of a server have in common.
type cluster struct {
	spec    Spec
	members []member
	pki     *pki // nil without TLS

	admin, limited Credentials // zero without Auth
}

// A member is the place of one node: what survives its process.
type member struct {
	name  string // "" if somebody else has given it one
	dir   string // exists; the program makes what it needs below it
	ports []int  // of 127.0.0.1

	elsewhere string // the one address of a server that is not ours
}

func (m *member) addr(port int) string {
	if m.elsewhere != "" {
		return m.elsewhere
	}
	return loopback(m.ports[port])
}

// firstPorts returns the address of each member's first port.
func (c *cluster) firstPorts() []string {
	addrs := make([]string, len(c.members))
	for i := range c.members {
		addrs[i] = c.members[i].addr(0)
	}
	return addrs
}

func programOf(spec Spec) (program, error) {
	switch spec.Store {
	case Etcd:
		return etcd{}, nil
	case Consul:
		return consul{}, nil
	case ZooKeeper:
		return zookeeper{}, nil
	case Redis:
		return redis{}, nil
	}
	return nil, fmt.Errorf("testserver: no such store: %q", spec.Store)
}
