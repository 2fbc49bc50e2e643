package etcdkv

import (
	"context"
	"fmt"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
)

// schemaVersion is that of the bookkeeping, which is the queues of locks. It
// stands at Meta/version, in decimal, from the first lock on.
const schemaVersion = 1

// schema refuses bookkeeping that a later version of this library has made
// (R6). It looks once, ahead of the first lock.
func (s *Store) schema(ctx context.Context) error {
	if s.schemaOK.Load() {
		return s.usable(ctx)
	}
	key := []byte(s.space.Meta() + "/version")
	resp, err := call(ctx, s, reads, s.kv.Txn, &pb.TxnRequest{
		Compare: []*pb.Compare{compareCreate(key, pb.Compare_EQUAL, 0)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: key, Value: strconv.AppendInt(nil, schemaVersion, 10)})},
		Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: key})},
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		text := string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
		v, err := strconv.Atoi(text)
		switch {
		case err != nil || v < 1:
			return fmt.Errorf("%w: %s holds %q", backend.ErrCorrupt, key, text)
		case v > schemaVersion:
			return fmt.Errorf("%w: %s is %d, this version of the library knows %d", backend.ErrNewerSchema, key, v, schemaVersion)
		}
	}
	s.schemaOK.Store(true)
	return nil
}
