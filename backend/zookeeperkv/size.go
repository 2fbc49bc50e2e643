package zookeeperkv

import (
	"fmt"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// The protocol's encoding (jute): a request starts with xid and type, an operation of a multi with a header of nine
// bytes; strings and values carry four bytes of length.
const (
	requestHeader = 8
	opHeader      = 9
	lengthPrefix  = 4
)

// multiSize is the size of a multi request of ops.
func multiSize(ops []any) int {
	n := requestHeader + opHeader
	for _, op := range ops {
		n += opHeader
		switch op := op.(type) {
		case *zk.CreateRequest:
			n += lengthPrefix + len(op.Path) + lengthPrefix + len(op.Data) + lengthPrefix + 4
			for _, a := range op.Acl {
				n += 4 + lengthPrefix + len(a.Scheme) + lengthPrefix + len(a.ID)
			}
		case *zk.SetDataRequest:
			n += lengthPrefix + len(op.Path) + lengthPrefix + len(op.Data) + 4
		case *zk.DeleteRequest:
			n += lengthPrefix + len(op.Path) + 4
		case *zk.CheckVersionRequest:
			n += lengthPrefix + len(op.Path) + 4
		}
	}
	return n
}

// fits refuses a request that the server would drop the connection for.
func (s *Store) fits(size int) error {
	if size > s.o.MaxRequest {
		return fmt.Errorf("%w: the request has %d bytes, the server takes %d (jute.maxbuffer)", backend.ErrTooLarge, size, s.o.MaxRequest)
	}
	return nil
}

// fitsValue refuses a value that is over the limit, or with its path makes a request that is.
func (s *Store) fitsValue(path string, value []byte) error {
	if limit := s.o.MaxRequest - s.reserve(1); len(value) > limit {
		return fmt.Errorf("%w: the value has %d bytes, the limit is %d", backend.ErrTooLarge, len(value), limit)
	}
	return s.fits(len(path) + len(value) + s.reserve(1)/2)
}

// fitsTxn refuses a transaction that is over the limit; multi looks at what it becomes.
func (s *Store) fitsTxn(size int) error {
	if limit := s.o.MaxRequest - s.reserve(backend.MaxTxnOps); size > limit {
		return fmt.Errorf("%w: the keys and values have %d bytes, the limit is %d", backend.ErrTooLarge, size, limit)
	}
	return nil
}

// reserve is the room that n operations at most take besides keys and values: the root, parents and bookkeeping.
func (s *Store) reserve(n int) int {
	return min(s.o.MaxRequest/2, 4<<10+n*(512+2*len(s.meta)+len(s.root)))
}
