package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A Proxy stands between a client and a server's TCP port and makes the network fail on demand. A proxy of a node
// stays when the node is killed and restarted. Its methods are safe for concurrent use.
type Proxy struct {
	failed  func(error) // hears of what fails beside any call
	backend string
	addr    string

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	conns    map[*proxyConn]struct{}
	flows    chan struct{} // closed while bytes flow
	trap     *trap         // nil if none is set

	latency                     atomic.Int64
	connections                 atomic.Int64
	requestChunks, requestBytes atomic.Int64
	replyChunks, replyBytes     atomic.Int64
}

// A trap waits for one request.
type trap struct {
	match   func([]byte) bool
	request bool          // lose the request, not its reply
	sprung  chan struct{} // closed once it is lost
}

// NewProxy returns a proxy to the server at backend (host:port), which need not run yet. It is closed when the test
// ends.
func NewProxy(t testing.TB, backend string) *Proxy {
	t.Helper()
	p, err := OpenProxy(backend, func(err error) { t.Errorf("testserver: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// OpenProxy is NewProxy for programs that are no tests. The caller closes the proxy. failed hears, perhaps from several
// goroutines, of a port that can no longer be listened on.
func OpenProxy(backend string, failed func(error)) (*Proxy, error) {
	p := &Proxy{failed: failed, backend: backend, conns: make(map[*proxyConn]struct{}), flows: make(chan struct{})}
	close(p.flows)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for tries := 1; ; tries++ {
		ports, err := freePorts(1)
		if err != nil {
			return nil, err
		}
		p.addr = loopback(ports[0])
		err = p.listen()
		if err == nil {
			return p, nil
		}
		if tries == 3 { // somebody else may take a port that was free, but not each time
			return nil, err
		}
	}
}

// Addr returns the host and port that clients dial. It never changes.
func (p *Proxy) Addr() string { return p.addr }

// Cut resets every connection, on both sides. Clients may connect again at once, unless Refuse was called before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.cut()
	}
}

// Refuse makes the port refuse new connections, as that of a dead server does, or accept them again. It leaves open
// connections alone.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
	case refuse && p.listener != nil:
		_ = p.listener.Close() // nothing is written through it
		p.listener = nil
	case !refuse && p.listener == nil:
		// The old listener goes when the call of Accept that was under way has come back.
		err := p.listen()
		for end := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); err = p.listen() {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			p.failed(fmt.Errorf("proxy cannot accept connections again: %w", err))
		}
	}
}

// Stall holds all bytes back, in both directions, until Resume. Connections stay open and new ones are still accepted,
// as with a network that loses every packet. Nothing is lost.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flows:
		p.flows = make(chan struct{})
	default: // stalled already
	}
}

// Resume lets bytes flow again, those held back first. It is no error if the proxy was not stalled.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flows:
	default:
		close(p.flows)
	}
}

// Open returns how many connections there are.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Latency delays each direction by d from now on; a round trip takes 2d longer. 0 ends it.
func (p *Proxy) Latency(d time.Duration) { p.latency.Store(int64(d)) }

// LoseReply waits for the first request that match accepts, lets it through, drops what the server answers and then
// resets the connection: the server has done what was asked, and the client cannot know. It works once; the returned
// channel is closed when it has, which a test should check. A new call of LoseReply or LoseRequest takes the place of one
// that has not worked yet; nil for match sets nothing.
//
// match sees requests as they come off the wire, so it works on plain connections only: for HTTP/2 the payload of
// each DATA frame, for all else what one read returned, usually one request or several small ones. It must not keep
// the slice. Calls are serialised.
//
// The reply is the first DATA or closing frame of the request's own stream on HTTP/2, and elsewhere the first bytes from
// the server after the request: on a connection that waits for other replies too, those count as well.
func (p *Proxy) LoseReply(match func(request []byte) bool) (lost <-chan struct{}) {
	return p.set(&trap{match: match, sprung: make(chan struct{})})
}

// LoseRequest is LoseReply for the way there: the request that match accepts never reaches the server, and the connection
// is reset.
func (p *Proxy) LoseRequest(match func(request []byte) bool) (lost <-chan struct{}) {
	return p.set(&trap{match: match, sprung: make(chan struct{}), request: true})
}

func (p *Proxy) set(t *trap) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trap = t; t.match == nil {
		p.trap = nil
	}
	return t.sprung
}

// trapped returns the trap that a request springs, or nil. Each springs once.
func (p *Proxy) trapped(request []byte) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.trap
	if t == nil || !t.match(request) {
		return nil
	}
	p.trap = nil
	return t
}

// Traffic is what a proxy has forwarded since it was made. A chunk is what one read returned: a small request is one, and
// so are several that were sent together.
type Traffic struct {
	Connections                 int64 // accepted
	RequestChunks, RequestBytes int64 // from clients to the server
	ReplyChunks, ReplyBytes     int64 // from the server to clients
}

// Sub returns what came after an earlier reading.
func (t Traffic) Sub(earlier Traffic) Traffic {
	return Traffic{
		Connections:   t.Connections - earlier.Connections,
		RequestChunks: t.RequestChunks - earlier.RequestChunks,
		RequestBytes:  t.RequestBytes - earlier.RequestBytes,
		ReplyChunks:   t.ReplyChunks - earlier.ReplyChunks,
		ReplyBytes:    t.ReplyBytes - earlier.ReplyBytes,
	}
}

// Traffic returns the counters. A chunk is counted before it is written, so whoever has received something finds it
// counted.
func (p *Proxy) Traffic() Traffic {
	return Traffic{
		Connections:   p.connections.Load(),
		RequestChunks: p.requestChunks.Load(), RequestBytes: p.requestBytes.Load(),
		ReplyChunks: p.replyChunks.Load(), ReplyBytes: p.replyBytes.Load(),
	}
}

// Close resets every connection, refuses new ones and waits for the proxy's goroutines. It is idempotent, and the test's
// end calls it.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.cancel()
	if p.listener != nil {
		_ = p.listener.Close() // nothing is written through it
		p.listener = nil
	}
	p.mu.Unlock()
	p.Cut()
	p.running.Wait()
}
