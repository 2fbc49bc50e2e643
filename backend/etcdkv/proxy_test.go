package etcdkv

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy forwards connections to a server, and can cut them.
type proxy struct {
	addr   string
	target string
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	down   bool
	silent bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target, conns: map[net.Conn]struct{}{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		work.Wait()
	})
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer s.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns[c], p.conns[s] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{c, s}, {s, c}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], muted{pair[1], p, pair[1] == s})
			_ = c.Close()
			_ = s.Close()
		})
	}
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, s)
	p.mu.Unlock()
}

// cut breaks every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// refuse makes the proxy close new connections at once, or stop doing so.
func (p *proxy) refuse(yes bool) {
	p.mu.Lock()
	p.down = yes
	p.mu.Unlock()
	if yes {
		p.cut()
	}
}

// mute makes the proxy swallow what the server says, or stop doing so.
func (p *proxy) mute(yes bool) {
	p.mu.Lock()
	p.silent = yes
	p.mu.Unlock()
}

// muted reads from one side of a connection.
type muted struct {
	net.Conn
	p      *proxy
	server bool
}

func (m muted) Read(b []byte) (int, error) {
	for {
		n, err := m.Conn.Read(b)
		m.p.mu.Lock()
		swallow := m.server && m.p.silent
		m.p.mu.Unlock()
		if err != nil || !swallow {
			return n, err
		}
	}
}
