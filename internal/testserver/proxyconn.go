package testserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// listen opens the port. The caller holds p.mu, or nobody else has p yet.
func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.failed(fmt.Errorf("proxy stops to accept connections: %w", err))
			return
		}
		c := &proxyConn{proxy: p, client: conn.(*net.TCPConn), done: make(chan struct{})}
		p.mu.Lock()
		if p.listener != l {
			c.cut() // it came just before Refuse, and a Cut since then has not seen it
		} else {
			p.conns[c] = struct{}{}
			p.connections.Add(1)
			p.running.Go(c.run)
		}
		p.mu.Unlock()
	}
}

// A proxyConn is one connection of a client and its counterpart to the server. It has two goroutines, one a direction.
type proxyConn struct {
	proxy  *Proxy
	client *net.TCPConn

	mu     sync.Mutex
	server *net.TCPConn // nil until dialled

	once sync.Once
	done chan struct{} // closed by cut

	// What LoseReply waits for. loses is set by the goroutine of requests before it writes the request.
	loses   atomic.Pointer[loss]
	replies replyScanner
}

// A loss is a reply to be dropped.
type loss struct {
	trap   *trap
	stream uint32 // of HTTP/2; 0 on other protocols
}

// run carries requests, after it has dialled the server and started the goroutine that carries replies.
func (c *proxyConn) run() {
	defer func() {
		c.proxy.mu.Lock()
		defer c.proxy.mu.Unlock()
		delete(c.proxy.conns, c)
	}()
	defer c.cut()
	if !c.dial() {
		return
	}
	var replies sync.WaitGroup
	defer replies.Wait()
	replies.Go(func() { c.pump(c.client, c.server, c.reply) })
	var requests requestScanner
	c.pump(c.server, c.client, func(chunk []byte) bool { return c.request(&requests, chunk) })
}

func (c *proxyConn) dial() bool {
	var d net.Dialer
	ctx := c.proxy.ctx
	conn, err := d.DialContext(ctx, "tcp", c.proxy.backend)
	if err != nil {
		return false // the client sees a reset
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = conn.(*net.TCPConn)
	select {
	case <-c.done: // cut while we dialled
		reset(c.server)
		return false
	default:
		return true
	}
}

// pump carries bytes until the source ends, which it passes on, or the connection is cut.
func (c *proxyConn) pump(dst, src *net.TCPConn, forward func(chunk []byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !c.held() || !forward(buf[:n]) {
				c.cut()
				return
			}
		}
		if errors.Is(err, io.EOF) && dst.CloseWrite() == nil {
			return // the other direction may go on
		}
		if err != nil {
			c.cut()
			return
		}
	}
}

// held waits for the latency and for the end of a stall. It reports false if the connection was cut meanwhile.
func (c *proxyConn) held() bool {
	if d := time.Duration(c.proxy.latency.Load()); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.done:
			return false
		}
	}
	c.proxy.mu.Lock()
	flows := c.proxy.flows
	c.proxy.mu.Unlock()
	select {
	case <-flows:
		return true
	case <-c.done:
		return false
	}
}

// request passes a chunk on to the server, unless a trap says otherwise. It reports false to end the connection.
func (c *proxyConn) request(scan *requestScanner, chunk []byte) bool {
	for stream, part := range scan.parts(chunk) {
		t := c.proxy.trapped(part)
		if t == nil {
			continue
		}
		if t.request {
			c.cut()
			close(t.sprung)
			return false
		}
		c.loses.Store(&loss{trap: t, stream: stream})
		break
	}
	c.proxy.requestChunks.Add(1)
	c.proxy.requestBytes.Add(int64(len(chunk)))
	_, err := c.server.Write(chunk)
	return err == nil
}

// reply passes a chunk on to the client. It reports false to end the connection.
func (c *proxyConn) reply(chunk []byte) bool {
	l := c.loses.Load()
	found := c.replies.find(chunk, l)
	if l != nil {
		if !found {
			return true // nothing passes between the request and the cut
		}
		c.cut()
		close(l.trap.sprung)
		return false
	}
	c.proxy.replyChunks.Add(1)
	c.proxy.replyBytes.Add(int64(len(chunk)))
	_, err := c.client.Write(chunk)
	return err == nil
}

// cut resets both sides. It may be called from anywhere, and again.
func (c *proxyConn) cut() {
	c.once.Do(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.done)
		reset(c.client)
		if c.server != nil {
			reset(c.server)
		}
	})
}

// reset closes a connection so that the peer learns of it at once and whatever is under way is dropped.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // it fails only if the connection is gone already
	_ = conn.Close()
}
