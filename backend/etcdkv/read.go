package etcdkv

import (
	"context"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// maxTxnOps is the server's --max-txn-ops by default: so many comparisons, so
// many operations if they hold, and so many if not.
const maxTxnOps = 128

// Get implements backend.Store, with one request.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	req := &pb.RangeRequest{Key: []byte(s.space.Name(key)), Serializable: o.Stale}
	var resp *pb.RangeResponse
	err := s.atLeast(ctx, o, func(stale bool) (h *pb.ResponseHeader, err error) {
		req.Serializable = stale
		resp, err = call(ctx, s, reads, s.kv.Range, req)
		return resp.GetHeader(), err
	})
	if err != nil {
		return backend.Entry{}, err
	}
	if len(resp.Kvs) == 0 || expired(resp.Kvs[0].Lease, s.horizon()) {
		return backend.Entry{}, backend.ErrNotFound
	}
	return entry(key, resp.Kvs[0]), nil
}

// GetMany implements backend.Store, with one request, and from one snapshot,
// for each 128 keys.
func (s *Store) GetMany(ctx context.Context, names []string, o backend.GetOptions) ([]backend.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	entries := make([]backend.Entry, len(names))
	for done := 0; done < len(names); done += maxTxnOps {
		part := names[done:min(done+maxTxnOps, len(names))]
		native := make([][]byte, len(part))
		for i, key := range part {
			native[i] = []byte(s.space.Name(key))
		}
		kvs, err := s.getMany(ctx, native, 0, o)
		if err != nil {
			return nil, err
		}
		horizon := s.horizon()
		for i, kv := range kvs {
			if kv != nil && !expired(kv.Lease, horizon) {
				entries[done+i] = entry(part[i], kv)
			}
		}
	}
	return entries, nil
}

// getMany reads up to maxTxnOps native keys, at revision at or, if that is 0,
// the current one. What is absent is nil.
func (s *Store) getMany(ctx context.Context, native [][]byte, at int64, o backend.GetOptions) ([]*mvccpb.KeyValue, error) {
	ops := make([]*pb.RequestOp, len(native))
	for i, key := range native {
		ops[i] = rangeOp(&pb.RangeRequest{Key: key, Revision: at})
	}
	var resp *pb.TxnResponse
	err := s.atLeast(ctx, o, func(stale bool) (h *pb.ResponseHeader, err error) {
		for _, op := range ops {
			op.GetRequestRange().Serializable = stale
		}
		resp, err = call(ctx, s, reads, s.kv.Txn, &pb.TxnRequest{Success: ops})
		return resp.GetHeader(), err
	})
	if err != nil {
		return nil, err
	}
	kvs := make([]*mvccpb.KeyValue, len(native))
	for i, r := range resp.Responses {
		if found := r.GetResponseRange().GetKvs(); len(found) > 0 {
			kvs[i] = found[0]
		}
	}
	return kvs, nil
}

// atLeast reads until the answer reflects the revision that o asks for. A
// member that lags is asked for a linearizable read before anything is waited
// for.
func (s *Store) atLeast(ctx context.Context, o backend.GetOptions, read func(stale bool) (*pb.ResponseHeader, error)) error {
	wait := backoff.Backoff{Max: 250 * time.Millisecond}
	for stale := o.Stale; ; stale = false {
		h, err := read(stale)
		if err != nil || uint64(h.GetRevision()) >= uint64(o.AtLeast) {
			return err
		}
		if !stale && !wait.Wait(ctx) {
			return backend.ContextError(ctx)
		}
	}
}

// header returns what a linearizable read of one native key, which need not
// exist, tells of the cluster.
func (s *Store) header(ctx context.Context, native string) (*pb.ResponseHeader, error) {
	resp, err := call(ctx, s, reads, s.kv.Range, &pb.RangeRequest{Key: []byte(native), KeysOnly: true})
	return resp.GetHeader(), err
}

// current returns the cluster's revision.
func (s *Store) current(ctx context.Context, native string) (int64, error) {
	h, err := s.header(ctx, native)
	return h.GetRevision(), err
}

// probeKey is a native key that stands for prefix in a read for its header's
// sake: whoever may read the range may read it.
func (s *Store) probeKey(prefix string) string {
	if p := s.space.Prefix(prefix); p != "" {
		return p
	}
	return "\x00"
}

// entry returns kv as the entry called key. It takes over the value.
func entry(key string, kv *mvccpb.KeyValue) backend.Entry {
	return backend.Entry{
		Key:      key,
		Value:    kv.Value,
		Revision: backend.Revision(kv.ModRevision),
		Created:  backend.Revision(kv.CreateRevision),
		Expires:  expires(kv.Lease),
	}
}

// foreignNames counts names below the root that no canonical key has.
type foreignNames struct{ n atomic.Int64 }

// key returns the canonical key of a native name. ok is false for bookkeeping
// and, after the first of them was logged, for names that other programs use
// and this library has no key for (R5).
func (s *Store) key(native []byte) (key string, ok bool) {
	text := string(native)
	if key, ok = s.space.Key(text); ok || s.space.Reserved(text) {
		return key, ok
	}
	if s.foreign.n.Add(1) == 1 {
		s.o.Logger.Warn("etcdkv: skipping names that are not canonical keys", "first", text)
	}
	return "", false
}

// ForeignNames is how many times names below the root were met and skipped
// because they have no canonical form: "a//b", "dir/", what is not UTF-8.
func (s *Store) ForeignNames() int64 { return s.foreign.n.Load() }
