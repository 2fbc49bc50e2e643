package testserver

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A zooSession speaks as much of ZooKeeper's protocol as it takes to set access rights, one request at a time. The rig
// has no client libraries: every module's tests use it.
type zooSession struct {
	conn net.Conn
	xid  int32
}

const (
	zooCreate = 1
	zooSetACL = 7
	zooAuth   = 100
	zooClose  = -11

	zooAuthXid  = -4
	zooAllRight = 31
)

// zooRequest builds a request; strings and buffers have their length before them.
type zooRequest []byte

func (r zooRequest) int(n int32) zooRequest { return binary.BigEndian.AppendUint32(r, uint32(n)) }
func (r zooRequest) long(n int64) zooRequest {
	return binary.BigEndian.AppendUint64(r, uint64(n))
}
func (r zooRequest) string(s string) zooRequest { return append(r.int(int32(len(s))), s...) }

func (r zooRequest) acl(users []Credentials) zooRequest {
	r = r.int(int32(len(users)))
	for _, u := range users {
		digest := sha1.Sum([]byte(u.User + ":" + u.Password)) // what the digest scheme prescribes
		r = r.int(zooAllRight).string("digest").string(u.User + ":" + base64.StdEncoding.EncodeToString(digest[:]))
	}
	return r
}

// openZooSession connects to addr. ctx bounds the whole session.
func openZooSession(ctx context.Context, c *cluster, addr string) (*zooSession, error) {
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	s := &zooSession{conn: conn}
	timeout := int32(10 * time.Second / time.Millisecond)
	connect := zooRequest{}.int(0).long(0).int(timeout).long(0).string(string(make([]byte, 16)))
	if err = s.send(connect); err == nil {
		_, err = s.receive()
	}
	if err != nil {
		_ = conn.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return s, nil
}

func (s *zooSession) authenticate(u Credentials) error {
	return s.do(zooAuthXid, zooAuth, zooRequest{}.int(0).string("digest").string(u.User+":"+u.Password))
}

// create makes a node without data in which users may do everything.
func (s *zooSession) create(path string, users ...Credentials) error {
	s.xid++
	return s.do(s.xid, zooCreate, zooRequest{}.string(path).string("").acl(users).int(0))
}

// setACL leaves all rights on a node to users, and none to anybody else.
func (s *zooSession) setACL(path string, users ...Credentials) error {
	s.xid++
	return s.do(s.xid, zooSetACL, zooRequest{}.string(path).acl(users).int(-1))
}

func (s *zooSession) close() {
	_ = s.do(s.xid+1, zooClose, nil) // without it the session ends by itself
	_ = s.conn.Close()
}

func (s *zooSession) do(xid, kind int32, body zooRequest) error {
	err := s.send(append(zooRequest{}.int(xid).int(kind), body...))
	if err != nil {
		return err
	}
	reply, err := s.receive()
	if err != nil {
		return err
	}
	if len(reply) < 16 {
		return io.ErrUnexpectedEOF
	}
	if code := int32(binary.BigEndian.Uint32(reply[12:])); code != 0 {
		return fmt.Errorf("request of type %d: error %d", kind, code)
	}
	return nil
}

func (s *zooSession) send(r zooRequest) error {
	_, err := s.conn.Write(append(zooRequest{}.int(int32(len(r))), r...))
	return err
}

func (s *zooSession) receive() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(s.conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 1<<20 {
		return nil, errors.New("not an answer of ZooKeeper")
	}
	reply := make([]byte, n)
	_, err := io.ReadFull(s.conn, reply)
	return reply, err
}
