package zookeeperkv

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Request types of the protocol (org.apache.zookeeper.ZooDefs.OpCode).
const (
	opGetData     = 4
	opGetChildren = 8
	opSync        = 9
	opMultiRead   = 22
	opSetAuth     = 100
	opSetWatches  = 101
	opClose       = -11
)

// xidPing is the xid of every ping.
const xidPing = -2

// dialFunc opens a connection to one server.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// wire looks at the frames of a connection that the driver opened, for what the client does not tell: when a request has
// been written, when the server was last heard and up to which zxid, and what session timeout it granted. It puts requests
// of the driver's own between the client's frames (ask), whose answers the client does not see, and so it tells the next
// server for the client what the session has seen (present). All other frames it leaves as they are.
type wire struct {
	dial      dialFunc
	handshake time.Duration
	limit     int             // of an answer to the driver, in bytes
	ctx       context.Context // ends with the link
	cancel    context.CancelFunc

	lastHeard atomic.Int64 // Unix time in nanoseconds
	zxid      atomic.Int64 // the greatest in an answer
	timeout   atomic.Int64 // of the session, in milliseconds; 0 until there was one
	rewatched atomic.Int64 // the connection on which the client has set its watches again
	conns     atomic.Int64 // connections made

	syncs   atomic.Uint64
	waiting atomic.Int32 // len(expected), to look at no path while nobody waits

	mu       sync.Mutex
	expected map[string]func()
	current  *wireConn
	pings    []time.Time // sent and not answered, on the current connection
	contact  time.Time   // when the last ping that was answered was sent
}

func newWire(dial dialFunc, o Options) *wire {
	w := &wire{dial: dial, handshake: o.DialTimeout, limit: o.MaxRequest + 1<<20, expected: map[string]func(){}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// open is the client's dialer.
func (w *wire) open(network, address string, _ time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.handshake)
	defer cancel()
	c, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		c.Close()
		return nil, net.ErrClosed
	}
	w.current = &wireConn{
		Conn: c, w: w, in: bufio.NewReaderSize(c, 16<<10), n: w.conns.Add(1), asked: map[int32]chan<- answer{},
	}
	w.pings = nil
	return w.current, nil
}

// close breaks the connection if it is still open, and keeps new ones from being made.
func (w *wire) close() {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.current != nil {
		w.current.Close()
	}
}

func (w *wire) heard() time.Time {
	n := w.lastHeard.Load()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// granted is the session timeout that the server gave; ok is false before there was a session.
func (w *wire) granted() (d time.Duration, ok bool) {
	ms := w.timeout.Load()
	return time.Duration(ms) * time.Millisecond, ms > 0
}

// pinging notes that a ping, or the handshake, is being sent.
func (w *wire) pinging() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pings = append(w.pings, time.Now())
}

// pinged notes the answer to the oldest.
func (w *wire) pinged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pings) > 0 {
		w.contact, w.pings = w.pings[0], w.pings[1:]
	}
}

// lastContact is when the last ping was sent that was answered: the server keeps the session for its timeout from
// then on, at least.
func (w *wire) lastContact() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.contact
}

// expect returns a path for a sync request and calls f once that is written. forget ends it.
func (w *wire) expect(path string, f func()) string {
	path += "/" + strconv.FormatUint(w.syncs.Add(1), 36)
	w.mu.Lock()
	w.expected[path] = f
	w.waiting.Store(int32(len(w.expected)))
	w.mu.Unlock()
	return path
}

func (w *wire) forget(path string) {
	w.mu.Lock()
	delete(w.expected, path)
	w.waiting.Store(int32(len(w.expected)))
	w.mu.Unlock()
}

// wireConn is one connection. The client reads in one goroutine and writes in another.
type wireConn struct {
	net.Conn
	w    *wire
	in   *bufio.Reader // the client reads twice a frame; this makes one system call of many frames
	left int           // bytes of the frame being read
	open bool          // the handshake was answered
	n    int64         // of the connection

	patience time.Duration // of the client with the frame being read

	writing sync.Mutex // held for a frame
	ready   bool       // requests of the driver's may be written
	lastXid int32      // of the driver's requests

	asking sync.Mutex
	asked  map[int32]chan<- answer // nil once the connection is closed
}

// SetReadDeadline shortens the client's patience with a server that accepts a connection and says nothing: ten times
// two thirds of the session timeout, in which a failover to another server would have been over long since.
func (c *wireConn) SetReadDeadline(t time.Time) error {
	if !c.open && !t.IsZero() {
		if soon := time.Now().Add(c.w.handshake); soon.Before(t) {
			t = soon
		}
	}
	if !t.IsZero() {
		c.patience = time.Until(t)
	}
	return c.Conn.SetReadDeadline(t)
}

// Write gets one whole frame: length, xid, type, and for most types the path first.
func (c *wireConn) Write(frame []byte) (int, error) {
	var written func()
	if len(frame) >= 8 && (!c.open || int32(binary.BigEndian.Uint32(frame[4:])) == xidPing) {
		c.w.pinging()
	}
	if !c.open {
		c.present(frame)
	}
	ready := false
	if len(frame) >= 12 && c.open {
		kind := int32(binary.BigEndian.Uint32(frame[8:]))
		ready = kind != opSetAuth && kind != opClose
		switch kind {
		case opSync:
			written = c.w.find(frame[12:])
		case opSetWatches:
			c.w.rewatched.Store(c.n)
		}
	}
	c.writing.Lock()
	n, err := c.Conn.Write(frame)
	c.ready = ready && err == nil
	c.writing.Unlock()
	if err == nil && written != nil {
		written()
	}
	return n, err
}

// present has a handshake that takes up a session say what the session has seen, as the client says what it has seen
// itself: a server that is behind that refuses it, and so what the session reads never goes back. The frame is length,
// protocol version, zxid, session timeout, session.
func (c *wireConn) present(handshake []byte) {
	if len(handshake) < 28 || binary.BigEndian.Uint64(handshake[20:]) == 0 {
		return
	}
	seen := handshake[8:16]
	if zxid := c.w.zxid.Load(); zxid > int64(binary.BigEndian.Uint64(seen)) {
		binary.BigEndian.PutUint64(seen, uint64(zxid))
	}
}

func (w *wire) find(body []byte) func() {
	if w.waiting.Load() == 0 || len(body) < 4 {
		return nil
	}
	n := int(binary.BigEndian.Uint32(body))
	if len(body) < 4+n {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.expected[string(body[4:4+n])]
}

// Read hands out at most the rest of the present frame.
func (c *wireConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		if err := c.frame(); err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// frame looks at the head of the next frame of the client's: length, xid, zxid, error; in the first one length, protocol
// version, session timeout, session. It takes out the answers to requests of the driver's own.
func (c *wireConn) frame() error {
	for {
		head, err := c.in.Peek(20)
		if err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(head))
		c.w.lastHeard.Store(time.Now().UnixNano())
		if !c.open {
			c.left = 4 + size
			c.open = true
			c.w.pinged()
			if ms := int32(binary.BigEndian.Uint32(head[8:])); ms > 0 {
				c.w.timeout.Store(int64(ms))
			}
			return nil
		}
		xid, zxid := int32(binary.BigEndian.Uint32(head[4:])), int64(binary.BigEndian.Uint64(head[8:]))
		if (xid >= 0 || xid < ownXids) && zxid > c.w.zxid.Load() {
			c.w.zxid.Store(zxid) // one reader at a time: no race between load and store
		}
		if xid < ownXids {
			if err := c.answer(xid, size); err != nil {
				return err
			}
			continue
		}
		c.left = 4 + size
		if xid == xidPing {
			c.w.pinged()
		}
		return nil
	}
}
