package prove

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// A Target is a store that is put to the proof, single or as a cluster.
type Target struct {
	Name    string // such as "etcd, 3 nodes"
	Store   string // such as "etcd"
	Version string
	Faults  []Fault

	server   *testserver.Server // nil for the embedded stores
	together string             // why nodes cannot be cut off from each other; "" if they can
	addrs    []string           // that clients are given
	// open makes a client behind n, and returns what closes what the store does not.
	open  func(ctx context.Context, n *network) (*kv.Store, func() error, error)
	usage func(ctx context.Context) (map[string]int, error) // what lies at the server, in numbers
	close func() error
	// find makes the checker find what it must find when it is told to expect more than the store promises.
	find func(ctx context.Context, p *Plan) (string, error)
}

// Close stops the servers and removes their data.
func (t *Target) Close() error { return t.close() }

// Fault returns the fault of that name.
func (t *Target) Fault(name string) (Fault, bool) {
	for _, f := range t.Faults {
		if f.Name == name {
			return f, true
		}
	}
	return Fault{}, false
}

// root is the native root of all rounds. On Redis Cluster it needs a hash tag.
const root = "{prove}"

// name is that of a target of so many nodes.
func name(store string, nodes int) string {
	if nodes > 1 {
		return fmt.Sprintf("%s, %d nodes", store, nodes)
	}
	return store
}

// byURL opens clients as programs do: by URL, here with the proxies' addresses.
func byURL(d backend.Driver, scheme string, params url.Values) func(context.Context, *network) (*kv.Store, func() error, error) {
	return func(ctx context.Context, n *network) (*kv.Store, func() error, error) {
		raw := fmt.Sprintf("%s://%s/%s?%s", scheme, strings.Join(n.addrs(), ","), url.PathEscape(root), params.Encode())
		s, err := kv.Drivers{d}.Open(ctx, raw)
		return s, nothingToClose, err
	}
}

// start launches the servers of a target.
func start(ctx context.Context, name string, spec testserver.Spec) (*Target, error) {
	srv, err := testserver.Launch(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Target{
		Name: name, Store: string(spec.Store), Version: srv.Version(), server: srv, addrs: srv.Addrs(), close: srv.Close,
	}, nil
}

// A link is a client: a store and the network that it is behind.
type link struct {
	*kv.Store
	net   *network
	close func() error
}

// connect opens a client. where is its number: some targets give each another server.
func (t *Target) connect(ctx context.Context, where int) (*link, error) {
	addrs := t.addrs
	if len(addrs) > 0 && t.Store == string(testserver.Consul) {
		addrs = []string{addrs[where%len(addrs)]} // one agent is all that a client knows
	}
	n, err := newNetwork(addrs)
	if err != nil {
		return nil, err
	}
	s, closing, err := t.open(ctx, n)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return &link{Store: s, net: n, close: closing}, nil
}

// Close closes the client before its network.
func (l *link) Close() error { return errors.Join(l.Store.Close(), l.close(), l.net.close()) }
