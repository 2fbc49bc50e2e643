package zookeeperkv

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

// The driver's requests wait until the client has presented its credentials, and fail with the connection.
func TestAskAfterCredentials(t *testing.T) {
	server, client := net.Pipe()
	w := newWire(func(context.Context, string, string) (net.Conn, error) { return client, nil }, Options{}.withDefaults())
	if a := w.ask(opMultiRead, nil); !errors.Is(a.err, zk.ErrNoServer) {
		t.Errorf("before there is a connection: %v", a.err)
	}
	c, err := w.open("tcp", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	frames := make(chan []byte, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			var head [4]byte
			if _, err := io.ReadFull(server, head[:]); err != nil {
				return
			}
			body := make([]byte, binary.BigEndian.Uint32(head[:]))
			if _, err := io.ReadFull(server, body); err != nil {
				return
			}
			frames <- body
		}
	})
	defer wg.Wait()
	defer w.close()
	write := func(xid, kind int32) {
		t.Helper()
		frame := binary.BigEndian.AppendUint32(nil, 8)
		frame = binary.BigEndian.AppendUint32(frame, uint32(xid))
		if _, err := c.Write(binary.BigEndian.AppendUint32(frame, uint32(kind))); err != nil {
			t.Fatal(err)
		}
		<-frames
	}
	refused := func(when string) {
		t.Helper()
		if a := w.ask(opMultiRead, nil); !errors.Is(a.err, errNotReady) {
			t.Errorf("%s: %v", when, a.err)
		}
	}
	refused("before the handshake")
	write(0, 0)
	refused("after the handshake")
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { server.Write(append([]byte{0, 0, 0, 36}, make([]byte, 36)...)) })
	if _, err := io.ReadFull(c, make([]byte, 40)); err != nil {
		t.Fatal(err)
	}
	write(1, opSetAuth)
	refused("after the credentials, of which there may be more")
	write(2, opSync)

	// The answer is taken out of the stream, and the client's own goes through.
	got := make(chan answer, 1)
	wg.Go(func() { got <- w.ask(opMultiRead, []byte("body")) })
	frame := <-frames
	if string(frame[8:]) != "body" || int32(binary.BigEndian.Uint32(frame[4:])) != opMultiRead {
		t.Errorf("asked %q", frame)
	}
	reply := append(append([]byte{0, 0, 0, 20}, frame[:4]...), "zxidzxid\xff\xff\xff\x9btext"...)
	wg.Go(func() { server.Write(append(reply, "\x00\x00\x00\x10\x00\x00\x00\x02zxidzxid\x00\x00\x00\x00"...)) })
	own := make([]byte, 20)
	if _, err := io.ReadFull(c, own); err != nil || own[7] != 2 {
		t.Errorf("the client gets %q, %v", own, err)
	}
	if a := <-got; a.err != nil || a.code != codeNoNode || string(a.body) != "text" {
		t.Errorf("answer %+v", a)
	}

	wg.Go(func() { got <- w.ask(opMultiRead, nil) })
	<-frames
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if a := <-got; !errors.Is(a.err, zk.ErrConnectionClosed) {
		t.Errorf("over a connection that was closed: %v", a.err)
	}
	if a := w.ask(opMultiRead, nil); !errors.Is(a.err, zk.ErrConnectionClosed) {
		t.Errorf("on a closed connection: %v", a.err)
	}
}
