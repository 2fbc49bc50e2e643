package consulkv_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend/consulkv"
)

// network is what the stores of a test reach the server through: it counts
// requests, and breaks connections.
type network struct {
	requests atomic.Int64
	fail     atomic.Pointer[func(*http.Request) error] // before a request is sent
	lose     atomic.Pointer[func(*http.Request) error] // after it was answered

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// cut closes every connection.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.Close()
	}
	clear(n.conns)
}

func (n *network) dial(ctx context.Context, netw, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, netw, addr)
	if err == nil {
		n.mu.Lock()
		if n.conns == nil {
			n.conns = map[net.Conn]struct{}{}
		}
		n.conns[c] = struct{}{}
		n.mu.Unlock()
	}
	return c, err
}

// client is an HTTP client over n, closed with the test.
func (n *network) client(t testing.TB) *http.Client {
	tr := &http.Transport{DialContext: n.dial, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		n.requests.Add(1)
		if f := n.fail.Load(); f != nil {
			if err := (*f)(r); err != nil {
				return nil, err
			}
		}
		resp, err := tr.RoundTrip(r)
		if f := n.lose.Load(); f != nil && err == nil {
			if lost := (*f)(r); lost != nil {
				resp.Body.Close()
				return nil, lost
			}
		}
		return resp, err
	})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// open returns a Store over n.
func (n *network) open(t testing.TB, addr, root string) *consulkv.Store {
	return consulkv.New(&api.Config{Address: addr, HttpClient: n.client(t)}, consulkv.Options{Root: root})
}
