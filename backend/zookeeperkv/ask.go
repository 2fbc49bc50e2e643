package zookeeperkv

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"

	"github.com/go-zookeeper/zk"
)

// ownXids is above the xids of the driver's own requests. The client counts from 1 upwards, and the xids with a meaning
// to the protocol are small negative numbers.
const ownXids = -1000

// answer is what the server has sent for a request of the driver's own.
type answer struct {
	body []byte // what follows the header; nil with errOversize
	code int32  // the server's error, 0 for none
	size int    // of the frame
	err  error
}

var (
	// errNotReady asks for a request of the client's to be made first.
	errNotReady = errors.New("the client has made no request on this connection yet")
	// errOversize is of an answer over the limit, which was thrown away.
	errOversize = errors.New("the answer is too large")
)

// ask sends a request of the driver's own on the present connection, in the client's session, and waits for the answer
// or for the connection's end. Answers come in order, so the client has got all that the server sent before, events
// among it.
//
// It knows of no contexts: call runs it.
func (w *wire) ask(kind int32, body []byte) answer {
	w.mu.Lock()
	c := w.current
	w.mu.Unlock()
	if c == nil {
		return answer{err: zk.ErrNoServer}
	}
	got := make(chan answer, 1)
	if err := c.send(kind, body, got); err != nil {
		return answer{err: err}
	}
	return <-got
}

func (c *wireConn) send(kind int32, body []byte, got chan<- answer) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	// The client presents its credentials first on every connection: what overtakes them would be refused.
	if !c.ready {
		return errNotReady
	}
	if c.lastXid--; c.lastXid >= ownXids || c.lastXid == math.MinInt32 {
		c.lastXid = ownXids - 1
	}
	c.asking.Lock()
	closed := c.asked == nil
	if !closed {
		c.asked[c.lastXid] = got
	}
	c.asking.Unlock()
	if closed {
		return zk.ErrConnectionClosed
	}
	frame := make([]byte, 12, 12+len(body))
	binary.BigEndian.PutUint32(frame, uint32(8+len(body)))
	binary.BigEndian.PutUint32(frame[4:], uint32(c.lastXid))
	binary.BigEndian.PutUint32(frame[8:], uint32(kind))
	// A server that does not read is given up by the deadline of the client's next frame, a ping at the latest.
	if _, err := c.Conn.Write(append(frame, body...)); err != nil {
		c.Close() // the frame may be there in part. Whoever waits is told.
	}
	return nil
}

// answer takes an answer to the driver out of the stream. If it cannot, Close tells who waits.
func (c *wireConn) answer(xid int32, size int) error {
	if err := c.extend(); err != nil { // the client's patience is for its own frame
		return err
	}
	var head [20]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	a := answer{code: int32(binary.BigEndian.Uint32(head[16:])), size: size}
	rest := size - (len(head) - 4)
	if size > c.w.limit {
		a.err = errOversize
		if _, err := c.in.Discard(rest); err != nil {
			return err
		}
	} else {
		a.body = make([]byte, rest)
		if _, err := io.ReadFull(c.in, a.body); err != nil {
			return err
		}
	}
	c.asking.Lock()
	got := c.asked[xid]
	delete(c.asked, xid)
	c.asking.Unlock()
	if got != nil {
		got <- a
	}
	return c.extend()
}

// extend starts the time anew that the client waits for a frame.
func (c *wireConn) extend() error { return c.Conn.SetReadDeadline(time.Now().Add(c.patience)) }

// Close also tells those who wait for answers.
func (c *wireConn) Close() error {
	c.asking.Lock()
	asked := c.asked
	c.asked = nil
	c.asking.Unlock()
	for _, got := range asked {
		got <- answer{err: zk.ErrConnectionClosed}
	}
	return c.Conn.Close()
}
