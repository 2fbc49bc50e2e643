package zookeeperkv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// multiRead reads many nodes in one request. Servers know it from 3.6 on, the client does not: the wire carries it. A
// server takes some 50 µs for a request, however many are on their way, and 1 µs for a node within one.

// readOp is one part of a multiRead: a node's data, or the names in it.
type readOp struct {
	path     string
	children bool
}

// readResult is the answer to a part.
type readResult struct {
	node
	names []string
	code  int32 // the server's error, 0 for none
}

// refused reports an error other than that there is no such node. The client has a name for it.
func (r readResult) refused() bool { return r.code != 0 && r.code != codeNoNode }

// Errors of the protocol (org.apache.zookeeper.KeeperException.Code).
const (
	codeUnimplemented = -6
	codeNoNode        = -101
)

// errUnimplemented is of a server before 3.6, which has closed the connection.
var errUnimplemented = backend.Because(errors.ErrUnsupported, errors.New("the server has no multiRead"))

// multiRead asks for ops, and tells how many bytes the answer has. It fails with errOversize if that is more than are
// taken, or if the request is too large to be sent (size is 0 then).
func (s *Store) multiRead(ctx context.Context, l *link, ops []readOp) (results []readResult, size int, err error) {
	body := encodeOps(ops)
	if requestHeader+len(body) > s.o.MaxRequest {
		return nil, 0, errOversize
	}
	a, err := call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
		a := l.wire.ask(opMultiRead, body)
		if errors.Is(a.err, errNotReady) {
			if _, _, err := c.Exists("/"); err != nil { // for which no right is needed
				return answer{}, err
			}
			a = l.wire.ask(opMultiRead, body)
		}
		if errors.Is(a.err, errOversize) {
			return a, nil // it is an answer all the same
		}
		return a, a.err
	}, nil)
	switch {
	case err != nil:
		return nil, 0, err
	case a.err != nil:
		return nil, a.size, a.err
	case a.code == codeUnimplemented:
		return nil, 0, errUnimplemented
	case a.code != 0:
		return nil, a.size, fmt.Errorf("multiRead: error %d", a.code)
	}
	results, err = decodeResults(a.body, ops)
	return results, a.size, err
}

// A part begins with a header of type, whether this is the end, and error.
const (
	opHeaderNone = -1
)

func encodeOps(ops []readOp) []byte {
	n := opHeader
	for _, op := range ops {
		n += opHeader + lengthPrefix + len(op.path) + 1
	}
	b := make([]byte, 0, n)
	for _, op := range ops {
		kind := uint32(opGetData)
		if op.children {
			kind = opGetChildren
		}
		b = binary.BigEndian.AppendUint32(b, kind)
		b = append(b, 0, 0xff, 0xff, 0xff, 0xff)
		b = binary.BigEndian.AppendUint32(b, uint32(len(op.path)))
		b = append(append(b, op.path...), 0) // no watch: the server would not set it
	}
	return append(b, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff)
}

func decodeResults(body []byte, ops []readOp) ([]readResult, error) {
	d := decoder{b: body}
	results := make([]readResult, len(ops))
	for i, op := range ops {
		r := &results[i]
		kind, _, code := d.int(), d.skip(1), d.int()
		switch {
		case kind == opHeaderNone:
			if r.code = d.int(); r.code == 0 || r.code != code {
				return nil, errGarbled
			}
		case kind == opGetData && !op.children:
			r.data, r.exists = d.bytes(), true
			d.stat(&r.stat)
		case kind == opGetChildren && op.children:
			r.exists = true
			n := d.int()
			if n < 0 || int(n) > len(d.b)/lengthPrefix {
				return nil, errGarbled
			}
			r.names = make([]string, n)
			for j := range r.names {
				r.names[j] = string(d.bytes())
			}
		default:
			return nil, errGarbled
		}
		if d.short {
			return nil, errGarbled
		}
	}
	return results, nil
}

var errGarbled = fmt.Errorf("multiRead: the answer is garbled: %w", io.ErrUnexpectedEOF)

// decoder takes values off the beginning of b.
type decoder struct {
	b     []byte
	short bool // b ended too early
}

func (d *decoder) skip(n int) []byte {
	if n > len(d.b) {
		d.b, d.short = nil, true
		return make([]byte, n)
	}
	head := d.b[:n]
	d.b = d.b[n:]
	return head
}

func (d *decoder) int() int32  { return int32(binary.BigEndian.Uint32(d.skip(4))) }
func (d *decoder) long() int64 { return int64(binary.BigEndian.Uint64(d.skip(8))) }

// bytes returns a copy, since what is taken in one answer may be kept for different times. A length of -1 is nil.
func (d *decoder) bytes() []byte {
	n := int(d.int())
	if n < 0 {
		return nil
	}
	if n > len(d.b) {
		d.b, d.short = nil, true
		return nil
	}
	return append(make([]byte, 0, n), d.skip(n)...)
}

func (d *decoder) stat(st *zk.Stat) {
	st.Czxid, st.Mzxid, st.Ctime, st.Mtime = d.long(), d.long(), d.long(), d.long()
	st.Version, st.Cversion, st.Aversion = d.int(), d.int(), d.int()
	st.EphemeralOwner = d.long()
	st.DataLength, st.NumChildren = d.int(), d.int()
	st.Pzxid = d.long()
}
