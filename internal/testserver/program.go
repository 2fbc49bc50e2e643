package testserver

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
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

// A mender is a program whose servers do not start on all that a kill may leave, and what their operators do then.
type mender interface {
	mend(m *member) error
}

// A cluster is what the nodes of a server have in common.
type cluster struct {
	spec    Spec
	listen  string // the address of the interface for clients
	host    string // at which clients reach the members; "" before they run
	members []member
	pki     *pki // nil without TLS

	admin, limited Credentials // zero without Auth
}

// A member is the place of one node: what survives its process.
type member struct {
	name  string // "" if somebody else has given it one
	dir   string // exists; the program makes what it needs below it
	host  string // at which members reach each other: 127.0.0.1, or its own (Spec.Apart)
	ports []int  // the first is for clients, the others are for members

	elsewhere string // the one address of a server that is not ours
}

// peer returns the address of a port for the other members.
func (m *member) peer(port int) string { return net.JoinHostPort(m.host, strconv.Itoa(m.ports[port])) }

// client returns the address at which clients reach member i.
func (c *cluster) client(i int) string {
	m := &c.members[i]
	if m.elsewhere != "" {
		return m.elsewhere
	}
	host := cmp.Or(c.host, loopbackHost)
	if c.spec.Apart {
		host = m.host
	}
	return net.JoinHostPort(host, strconv.Itoa(m.ports[0]))
}

// listenAt is the address of the interface on which member i listens for clients.
func (c *cluster) listenAt(i int) string {
	if c.spec.Apart {
		return c.members[i].host
	}
	return c.listen
}

// allClients returns the address of each member for clients.
func (c *cluster) allClients() []string {
	addrs := make([]string, len(c.members))
	for i := range c.members {
		addrs[i] = c.client(i)
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
