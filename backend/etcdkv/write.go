package etcdkv

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
)

// Put implements backend.Store, with one request: a transaction, since only
// that can tell an expired entry from a present one. A put with a TTL takes
// one more when no lease that it could share is at hand, which is once a
// second at most.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if err := s.fitsValue(value); err != nil {
		return backend.Entry{}, err
	}
	put := &pb.PutRequest{Key: []byte(s.space.Name(key)), Value: value}
	ops := []*pb.RequestOp{putOp(put)}
	if o.KeepTTL { // read first which expiry it is that stays
		ops = []*pb.RequestOp{rangeOp(peek(put.Key, nil)), keepOp(put)}
	}
	guards := []guard{{key: put.Key, If: o.If, rev: int64(o.Revision)}}
	var resp *pb.TxnResponse
	failed := -1
	write := func(ids []int64) (err error) {
		put.Lease = ids[0]
		resp, failed, err = s.transact(ctx, guards, ops)
		return err
	}
	var err error
	if o.TTL == 0 {
		err = write([]int64{0})
	} else {
		err = s.leased(ctx, []backend.Write{{TTL: o.TTL}}, write)
	}
	switch {
	case err != nil:
		return backend.Entry{}, err
	case failed >= 0:
		return backend.Entry{}, o.If.Failed()
	}
	e := backend.Entry{Key: key, Revision: backend.Revision(resp.Header.Revision), Expires: expires(put.Lease)}
	switch {
	case o.If == backend.Absent:
		e.Created = e.Revision
	case o.KeepTTL:
		kv := resp.Responses[0].GetResponseRange().GetKvs()[0] // there, since the condition held
		e.Created, e.Expires = backend.Revision(kv.CreateRevision), expires(kv.Lease)
	}
	return e, nil
}

// Delete implements backend.Store, with one request.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	g := guard{key: []byte(s.space.Name(key)), If: o.If, rev: int64(o.Revision)}
	if g.If == backend.Always {
		g.If = backend.Present // a missing key is ErrNotFound
	}
	_, failed, err := s.transact(ctx, []guard{g}, []*pb.RequestOp{deleteOp(g.key, nil)})
	if err == nil && failed >= 0 {
		err = g.If.Failed()
	}
	return err
}

// DeletePrefix implements backend.Store: one request and one revision. It also
// removes names in the range that are no canonical keys, and does not count
// them. The answer carries the names, so that expired entries are not counted.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	spans := s.spans(prefix)
	req := &pb.TxnRequest{}
	for _, sp := range spans {
		req.Success = append(req.Success, rangeOp(peek(sp.from, sp.to)))
	}
	for _, sp := range spans {
		req.Success = append(req.Success, deleteOp(sp.from, sp.to))
	}
	resp, err := call(ctx, s, writes|patient, s.kv.Txn, req)
	if err != nil {
		return 0, err
	}
	var n int64
	horizon := s.horizon()
	for _, r := range resp.Responses[:len(spans)] {
		for _, kv := range r.GetResponseRange().GetKvs() {
			if expired(kv.Lease, horizon) {
				continue
			}
			if _, ok := s.key(kv.Key); ok {
				n++
			}
		}
	}
	return n, nil
}
