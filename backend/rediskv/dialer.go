package rediskv

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// go-redis looks at no context while it waits for a reply, so the end of one has to interrupt the connection. It does not
// tell which connection carries a request either. But it asks the request's context for a deadline and hands that on, as
// it is, right before it writes. So a request on the connections of a Dialer has a deadline that no other has, a number of
// nanoseconds, and the connection finds the request by it. A request then needs no goroutine besides its caller's.

// replyTimeout is how long a request may take on such a connection, or the dial timeout if that is longer.
const replyTimeout = 5 * time.Second

// Dialer makes connections whose requests a Store can interrupt when their contexts end. Without one, a request that
// writes, under a context that can end, is made by a goroutine of the Store's, which costs about half of what the request
// does. A client uses the Dialer if its options say so, and the Store's as well:
//
//	d := rediskv.NewDialer(nil)
//	client := redis.NewClient(&redis.Options{Addr: addr, Dialer: d.Dial, ContextTimeoutEnabled: true})
//	store := rediskv.New(client, rediskv.Options{Root: "shop", Dialer: d})
//
// ContextTimeoutEnabled is needed, and neither ReadTimeout nor WriteTimeout may be less than the 5 s that go-redis has by
// itself, or than a longer Options.DialTimeout: a Store that finds out otherwise goes on as if it had no Dialer. Clients
// and Stores may share one. Clients that the Driver opens have it already. It is safe for concurrent use.
//
// go-redis also has nothing to print about connections that fail, since Dial hands the failure on to the request.
type Dialer struct {
	connect func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	last    int64 // the latest deadline given out, in Unix ns
	flights map[int64]*flight
}

// NewDialer returns a Dialer that connects with connect, such as the DialContext of a net.Dialer or a tls.Dialer. nil
// means a net.Dialer.
func NewDialer(connect func(ctx context.Context, network, addr string) (net.Conn, error)) *Dialer {
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	return &Dialer{connect: connect, flights: map[int64]*flight{}}
}

// Dial is for the option Dialer of a redis client. A failure becomes a connection that fails, because go-redis would print
// it: the error is always nil.
func (d *Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.connect(ctx, network, addr)
	if err != nil {
		return unmade{err}, nil
	}
	l := &line{Conn: conn, of: d}
	if raw, ok := conn.(syscall.Conn); ok {
		return plainLine{l, raw}, nil
	}
	return l, nil
}

// flight is one request.
type flight struct {
	of       *Store
	id       int64 // its deadline
	end      context.CancelFunc
	detached bool // outlives the Store's life; see cleanup

	mu   sync.Mutex
	line *line
	over bool
}

func (f *flight) Deadline() time.Time { return time.Unix(0, f.id) }

// begin registers a request of s, which end cancels as long as it waits for a connection.
func (d *Dialer) begin(s *Store, end context.CancelFunc, detached bool) *flight {
	f := &flight{of: s, end: end, detached: detached}
	d.mu.Lock()
	f.id = max(time.Now().Add(max(replyTimeout, s.opt.DialTimeout)).UnixNano(), d.last+1)
	d.last = f.id
	d.flights[f.id] = f
	d.mu.Unlock()
	if !detached && s.life.Err() != nil { // Close may have come before
		f.interrupt()
	}
	return f
}

func (d *Dialer) end(f *flight) {
	d.mu.Lock()
	delete(d.flights, f.id)
	d.mu.Unlock()
}

func (d *Dialer) find(id int64) *flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flights[id]
}

// interrupt ends the requests of s, save cleanups.
func (d *Dialer) interrupt(s *Store) {
	var open []*flight
	d.mu.Lock()
	for _, f := range d.flights {
		if f.of == s && !f.detached {
			open = append(open, f)
		}
	}
	d.mu.Unlock()
	for _, f := range open {
		f.interrupt()
	}
}

// carriedBy notes the connection and reports whether the request may go on.
func (f *flight) carriedBy(l *line) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.line = l
	return !f.over
}

func (f *flight) carried() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.line != nil
}

func (f *flight) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// interrupt ends the request wherever it is. The connection is lost, because a reply may still come on it.
func (f *flight) interrupt() {
	f.mu.Lock()
	f.over = true
	l := f.line
	f.mu.Unlock()
	f.end()
	if l != nil {
		l.interrupt(f.id)
	}
}

// line is a connection that can be interrupted.
type line struct {
	net.Conn
	of *Dialer

	mu      sync.Mutex
	carries int64 // the deadline of the latest request
	cut     bool  // that was interrupted
}

// plainLine lets go-redis look whether the server has closed the connection, which TLS hides.
type plainLine struct {
	*line
	syscall.Conn
}

// NetConn is for go-redis, which looks for what TLS wraps.
func (l *line) NetConn() net.Conn { return l.Conn }

// past is a deadline that ends I/O at once.
func past() time.Time { return time.Unix(1, 0) }

// SetWriteDeadline is called right before a request is written.
func (l *line) SetWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carries, l.cut = t.UnixNano(), false
	if f := l.of.find(l.carries); f != nil && !f.carriedBy(l) {
		l.cut = true
		t = past()
	}
	return l.Conn.SetWriteDeadline(t)
}

// SetReadDeadline is called after that.
func (l *line) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut && t.UnixNano() == l.carries {
		t = past()
	}
	return l.Conn.SetReadDeadline(t)
}

// interrupt ends the I/O of a request, unless the connection carries another one by now.
func (l *line) interrupt(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.carries == id {
		l.cut = true
		_ = l.Conn.SetDeadline(past())
	}
}

// unmade is what stands for a connection that could not be made. Everything fails with the reason.
type unmade struct{ err error }

func (r unmade) Read([]byte) (int, error)              { return 0, r.err }
func (r unmade) Write([]byte) (int, error)             { return 0, r.err }
func (r unmade) Close() error                          { return nil }
func (r unmade) LocalAddr() net.Addr                   { return &net.TCPAddr{} }
func (r unmade) RemoteAddr() net.Addr                  { return &net.TCPAddr{} }
func (r unmade) SetDeadline(time.Time) error           { return r.err }
func (r unmade) SetReadDeadline(time.Time) error       { return r.err }
func (r unmade) SetWriteDeadline(time.Time) error      { return r.err }
func (r unmade) SyscallConn() (syscall.RawConn, error) { return nil, r.err } // go-redis asks whether it is in order

// call is the context of a request.
type call struct {
	context.Context
	deadline time.Time
}

func (c call) Deadline() (time.Time, bool) { return c.deadline, true }
