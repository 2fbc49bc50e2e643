package zookeeperkv

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between clients and a server. It counts requests, and loses, delays and cuts.
type proxy struct {
	ln     net.Listener
	server string
	wg     sync.WaitGroup

	mu      sync.Mutex
	moving  *sync.Cond
	paused  bool
	closed  bool
	count   int64
	ops     map[int32]int64
	watched int
	conns   map[net.Conn]bool
	lose    func(op int32) bool         // whether to cut instead of passing the answer to the next request of this type
	before  func(op int32, path string) // called before a request that begins with a path is passed on
	old     bool                        // multiRead is unknown, as before 3.6
	slow    time.Duration               // by which answers are late
	trips   int64                       // requests that came while none was under way
	flying  int
	pinged  int64
	seen    int64 // what the last handshake said
}

func newProxy(t testing.TB, server string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, server: server, conns: map[net.Conn]bool{}, ops: map[int32]int64{}}
	p.moving = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.moving.Broadcast()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) requests() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// of returns how many requests of type op there were.
func (p *proxy) of(op int32) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ops[op]
}

func (p *proxy) pings() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pinged
}

// delay makes answers late, so that what is not sent meanwhile waits for them, and returns the number of round trips so
// far.
func (p *proxy) delay(d time.Duration) (trips int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = d
	return p.trips
}

// hook has before called before each request that begins with a path is passed on, one at a time for each connection.
func (p *proxy) hook(before func(op int32, path string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = before
}

// age makes the server one that is older than 3.6, or new again.
func (p *proxy) age(old bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.old = old
}

// forgive takes requests off the count.
func (p *proxy) forgive(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count -= n
}

// watches returns how many watches were asked for.
func (p *proxy) watches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watched
}

// presented is the zxid up to which the last client that connected has seen the data, as it says.
func (p *proxy) presented() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) pause() (resume func()) {
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.paused = false
		p.mu.Unlock()
		p.moving.Broadcast()
	}
}

// loseAnswer cuts the connection when the answer to the next request of type op is on its way.
func (p *proxy) loseAnswer(op int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	once := false
	p.lose = func(o int32) bool {
		if o != op || once {
			return false
		}
		once = true
		return true
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		s, err := net.Dial("tcp", p.server)
		if err != nil {
			c.Close()
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[s] = true, true
		p.mu.Unlock()
		link := &proxied{p: p, lost: map[int32]bool{}}
		p.wg.Go(func() { link.copy(s, c, true) })
		p.wg.Go(func() { link.copy(c, s, false) })
	}
}

type proxied struct {
	p    *proxy
	mu   sync.Mutex
	lost map[int32]bool // xids whose answers are lost
}

func (l *proxied) copy(to, from net.Conn, requests bool) {
	p := l.p
	defer func() {
		to.Close()
		from.Close()
		p.mu.Lock()
		delete(p.conns, to)
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	for first := true; ; first = false {
		var head [4]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(head[:]))
		copy(frame, head[:])
		if _, err := io.ReadFull(from, frame[4:]); err != nil {
			return
		}
		p.mu.Lock()
		for p.paused && !p.closed {
			p.moving.Wait()
		}
		drop, unknown := false, false
		var before func(int32, string)
		slow := p.slow
		if first && requests && len(frame) >= 16 {
			p.seen = int64(binary.BigEndian.Uint64(frame[8:]))
		}
		if !first {
			xid := int32(binary.BigEndian.Uint32(frame[4:]))
			if requests && xid == xidPing {
				p.pinged++
			} else if requests {
				op := int32(binary.BigEndian.Uint32(frame[8:]))
				p.count++
				p.ops[op]++
				if p.flying == 0 {
					p.trips++
				}
				p.flying++
				before = p.before
				unknown = p.old && op == opMultiRead
				if (op == 3 || op == 4 || op == 12) && frame[len(frame)-1] == 1 {
					p.watched++ // exists, getData and getChildren2 end with the wish for a watch
				}
				if p.lose != nil && p.lose(op) {
					l.mu.Lock()
					l.lost[xid] = true
					l.mu.Unlock()
				}
			} else if !requests {
				l.mu.Lock()
				drop = l.lost[xid]
				l.mu.Unlock()
			}
		}
		p.mu.Unlock()
		if before != nil {
			before(int32(binary.BigEndian.Uint32(frame[8:])), firstPath(frame[12:]))
		}
		if unknown {
			// What a server does that knows no such type: it answers, and closes the connection.
			answer := binary.BigEndian.AppendUint32(nil, 16)
			answer = append(answer, frame[4:8]...)
			answer = binary.BigEndian.AppendUint64(answer, 0)
			answer = binary.BigEndian.AppendUint32(answer, uint32(0x100000000+codeUnimplemented))
			from.Write(answer)
			return
		}
		if drop {
			return
		}
		if !requests && slow > 0 {
			time.Sleep(slow) // a server far away
		}
		if xid := int32(binary.BigEndian.Uint32(frame[4:])); !requests && !first && xid != xidPing && xid != -1 {
			p.mu.Lock()
			p.flying--
			p.mu.Unlock()
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

// firstPath is the path that the body of a request begins with, if it begins with one.
func firstPath(body []byte) string {
	if len(body) < 4 {
		return ""
	}
	n := int(binary.BigEndian.Uint32(body))
	if len(body) < 4+n {
		return ""
	}
	return string(body[4 : 4+n])
}
