package testserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A lineServer answers each line with "got LINE" and counts them.
type lineServer struct {
	addr string
	got  atomic.Int64
}

func newLineServer(t *testing.T) *lineServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &lineServer{addr: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					s.got.Add(1)
					if _, err := fmt.Fprintf(conn, "got %s\n", lines.Text()); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait() // the proxy is closed by then, so every connection has ended
	})
	return s
}

type lineClient struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dialLines(t *testing.T, addr string) *lineClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &lineClient{t, conn, bufio.NewReader(conn)}
}

func (c *lineClient) send(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *lineClient) receive(timeout time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.r.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

func (c *lineClient) roundTrip(line string) {
	c.t.Helper()
	c.send(line)
	c.expect("got " + line)
}

func (c *lineClient) expect(want string) {
	c.t.Helper()
	if got, err := c.receive(within); got != want {
		c.t.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

func (c *lineClient) expectReset() {
	c.t.Helper()
	if got, err := c.receive(within); !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("received %q, %v; want a reset connection", got, err)
	}
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(within):
		t.Fatalf("not within %v: %s", within, what)
	}
}

func TestProxyForwardsAndCounts(t *testing.T) {
	s := newLineServer(t)
	p := NewProxy(t, s.addr)
	c := dialLines(t, p.Addr())
	c.roundTrip("one")
	before := p.Traffic()
	c.roundTrip("two")
	want := Traffic{RequestChunks: 1, RequestBytes: 4, ReplyChunks: 1, ReplyBytes: 8}
	if got := p.Traffic().Sub(before); got != want {
		t.Errorf("a round trip counts as %+v, want %+v", got, want)
	}
	if before.Connections != 1 {
		t.Errorf("%d connections", before.Connections)
	}

	// The end of one direction is passed on and leaves the other open.
	c.send("three")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.expect("got three")
	if got, err := c.receive(within); err != io.EOF {
		t.Errorf("after the end: %q, %v", got, err)
	}
}

func TestProxyCutAndRefuse(t *testing.T) {
	s := newLineServer(t)
	p := NewProxy(t, s.addr)
	c := dialLines(t, p.Addr())
	c.roundTrip("one")
	p.Cut()
	c.expectReset()

	c = dialLines(t, p.Addr())
	c.roundTrip("two")
	for range 2 {
		p.Refuse(true)
	}
	if !refuses(p.Addr()) {
		t.Error("the port accepts connections")
	}
	c.roundTrip("three") // what is open stays so
	p.Cut()
	c.expectReset()
	for range 2 {
		p.Refuse(false)
	}
	dialLines(t, p.Addr()).roundTrip("four")
}

func TestProxyStall(t *testing.T) {
	s := newLineServer(t)
	p := NewProxy(t, s.addr)
	open := dialLines(t, p.Addr())
	open.roundTrip("one")
	for range 2 {
		p.Stall()
	}
	fresh := dialLines(t, p.Addr())
	open.send("two")
	fresh.send("three")
	const patience = 100 * time.Millisecond
	for _, c := range []*lineClient{open, fresh} {
		var timeout net.Error
		if got, err := c.receive(patience); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("received %q, %v through a stalled proxy", got, err)
		}
	}
	if got := s.got.Load(); got != 1 {
		t.Errorf("the server received %d lines", got)
	}
	for range 2 {
		p.Resume()
	}
	open.expect("got two")
	fresh.expect("got three")

	p.Stall()
	open.send("four")
	p.Cut()
	open.expectReset()
	p.Stall() // and closed like this by the test's end
}

func TestProxyLatency(t *testing.T) {
	p := NewProxy(t, newLineServer(t).addr)
	c := dialLines(t, p.Addr())
	const d = 50 * time.Millisecond
	p.Latency(d)
	began := time.Now()
	c.roundTrip("one")
	if took := time.Since(began); took < 2*d {
		t.Errorf("a round trip took %v, want %v at least", took, 2*d)
	}
	p.Latency(time.Hour)
	c.send("two")
	p.Close() // does not wait for the hour
	c.expectReset()
}

func TestProxyLosesReplyOnce(t *testing.T) {
	s := newLineServer(t)
	p := NewProxy(t, s.addr)
	c := dialLines(t, p.Addr())
	two := func(request []byte) bool { return bytes.Contains(request, []byte("two")) }
	lost := p.LoseReply(two)
	c.roundTrip("one")
	select {
	case <-lost:
		t.Error("another reply was lost")
	default:
	}
	c.send("two")
	c.expectReset()
	await(t, "the reply is lost", lost)
	if got := s.got.Load(); got != 2 {
		t.Errorf("the server received %d lines, want 2", got)
	}
	c = dialLines(t, p.Addr())
	c.roundTrip("two")

	lost = p.LoseRequest(two)
	c.send("two")
	c.expectReset()
	await(t, "the request is lost", lost)
	if got := s.got.Load(); got != 3 {
		t.Errorf("the server received %d lines, want 3", got)
	}

	p.LoseReply(two)
	p.LoseReply(nil)
	dialLines(t, p.Addr()).roundTrip("two")
}

func TestProxyWithoutServer(t *testing.T) {
	p := NewProxy(t, loopback(1)) // where nobody listens
	conn, err := net.Dial("tcp", p.Addr())
	if err == nil { // the reset may also come before Dial returns
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset connection", err)
	}
	p.Close()
	p.Close()
	p.Refuse(false) // too late
	if !refuses(p.Addr()) {
		t.Error("a closed proxy accepts connections")
	}
}

// On HTTP/2 a window update and an answer to a ping come before the reply, and other calls share the connection.
func TestProxyLosesReplyOfOneCall(t *testing.T) {
	var arrived, served atomic.Int64
	blocked := make(chan struct{})
	release := sync.OnceFunc(func() { close(blocked) })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the connection was cut
		}
		arrived.Add(1)
		if string(body) == "lost" {
			<-blocked // long after the server has acknowledged the body
			served.Add(1)
		}
		_, _ = w.Write(body)
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	defer release() // first, or Close waits for the handler
	p := NewProxy(t, server.Listener.Addr().String())
	defer p.Close() // before the server, which waits for its connections
	transport := &http.Transport{Protocols: server.Config.Protocols}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	call := func(ctx context.Context, body string) (string, error) {
		// No GetBody, or the transport repeats the request on a new connection.
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Addr(), io.MultiReader(strings.NewReader(body)))
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		return string(got), err
	}
	if got, err := call(t.Context(), "one"); got != "one" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	lost := p.LoseReply(func(request []byte) bool { return string(request) == "lost" })
	failed := make(chan error, 1)
	go func() {
		_, err := call(t.Context(), "lost")
		failed <- err
	}()
	// Frames of another stream go the same way meanwhile. Its reply is dropped, not waited for.
	other, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = call(other, "other") // whatever comes of it
	}()
	eventually(t, "all three calls have arrived", func() bool { return arrived.Load() == 3 })
	select {
	case <-lost:
		t.Error("cut before the reply")
	default:
	}
	release()
	if err := <-failed; err == nil {
		t.Error("the reply has arrived")
	}
	cancel()
	<-ended
	await(t, "the reply is lost", lost)
	if served.Load() != 1 {
		t.Errorf("the server has served it %d times", served.Load())
	}
}

// However a stream of frames is cut into chunks, the same frames come out.
func TestFramesInAnyChunks(t *testing.T) {
	var stream []byte
	add := func(kind, flags byte, id byte, payload string) {
		stream = append(stream, 0, 0, byte(len(payload)), kind, flags, 0, 0, 0, id)
		stream = append(stream, payload...)
	}
	add(4, 0, 0, "settings")
	add(http2Headers, 4, 1, "head")
	add(http2Data, 0, 1, "first")
	add(http2Data, 0, 3, "second")
	add(http2Data, http2EndStream, 1, "")
	add(8, 0, 0, "more")
	for size := 1; size <= len(stream); size++ {
		var s requestScanner
		got := make(map[uint32]string)
		for rest := append([]byte(http2Preface), stream...); len(rest) > 0; {
			n := min(size, len(rest))
			for id, part := range s.parts(rest[:n]) {
				got[id] += string(part)
			}
			rest = rest[n:]
		}
		if len(got) != 2 || got[1] != "first" || got[3] != "second" {
			t.Fatalf("in chunks of %d: %q", size, got)
		}
	}
}
