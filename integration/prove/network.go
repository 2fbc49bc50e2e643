package prove

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"

	"github.com/polykv/kv/internal/testserver"
)

// A network is what lies between one client and the servers: a proxy before each.
type network struct {
	mu      sync.Mutex
	proxies map[string]*testserver.Proxy // by the server's address
	order   []string                     // those addresses, the known ones first
	closed  bool
	errs    []error
}

func newNetwork(addrs []string) (*network, error) {
	n := &network{proxies: map[string]*testserver.Proxy{}}
	for _, addr := range addrs {
		if _, err := n.proxy(addr); err != nil {
			n.close()
			return nil, err
		}
	}
	return n, nil
}

// proxy returns the one before addr, which it makes if there is none.
func (n *network) proxy(addr string) (*testserver.Proxy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.proxies[addr]; p != nil {
		return p, nil
	}
	if n.closed {
		return nil, net.ErrClosed
	}
	p, err := testserver.OpenProxy(addr, func(err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.errs = append(n.errs, err)
	})
	if err != nil {
		return nil, err
	}
	n.proxies[addr] = p
	n.order = append(n.order, addr)
	return p, nil
}

// addrs are the proxies' own addresses, for clients that are told where servers are.
func (n *network) addrs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, addr := range n.order {
		out = append(out, n.proxies[addr].Addr())
	}
	return out
}

// dial is for clients that learn servers' addresses from servers.
func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	p, err := n.proxy(addr)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.Addr())
}

func (n *network) each(f func(addr string, p *testserver.Proxy)) {
	n.mu.Lock()
	order := append([]string(nil), n.order...)
	n.mu.Unlock()
	for _, addr := range order {
		n.mu.Lock()
		p := n.proxies[addr]
		n.mu.Unlock()
		f(addr, p)
	}
}

// any returns one of the proxies.
func (n *network) any(rng *rand.Rand) *testserver.Proxy {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.order) == 0 {
		return nil
	}
	return n.proxies[n.order[rng.IntN(len(n.order))]]
}

// connections is how many there are now.
func (n *network) connections() (open int) {
	n.each(func(_ string, p *testserver.Proxy) { open += p.Open() })
	return open
}

func (n *network) close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.each(func(_ string, p *testserver.Proxy) { p.Close() })
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.errs...)
}
