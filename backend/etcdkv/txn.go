package etcdkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/polykv/kv/backend"
)

// guard is a condition on one native key. Always is a condition too, that of
// a put: the key must not be an expired one that the server still has, or its
// watchers would be told of an update where readers see a creation.
type guard struct {
	key []byte
	If  backend.Condition
	rev int64 // of the last write for AtRevision, of the first for LockHeld
}

// compares appends what the server has to find. floor is the greatest lease ID
// that counts as expired for this key.
func (g guard) compares(to []*pb.Compare, floor int64) []*pb.Compare {
	switch g.If {
	case backend.Absent:
		return append(to, compareCreate(g.key, pb.Compare_EQUAL, 0))
	case backend.LockHeld:
		return append(to, compareCreate(g.key, pb.Compare_EQUAL, g.rev))
	case backend.Present:
		to = append(to, compareCreate(g.key, pb.Compare_GREATER, 0))
	case backend.AtRevision:
		to = append(to, compareMod(g.key, pb.Compare_EQUAL, g.rev))
	}
	return append(to, &pb.Compare{
		Key: g.key, Target: pb.Compare_LEASE, Result: pb.Compare_GREATER,
		TargetUnion: &pb.Compare_Lease{Lease: floor},
	})
}

// holds reports whether the guard is kept by kv, nil for an absent key.
func (g guard) holds(kv *mvccpb.KeyValue) bool {
	switch g.If {
	case backend.Absent:
		return kv == nil
	case backend.Present:
		return kv != nil
	case backend.AtRevision:
		return kv != nil && kv.ModRevision == g.rev
	case backend.LockHeld:
		return kv != nil && kv.CreateRevision == g.rev
	}
	return true
}

// transact applies ops if all guards hold, in one request. failed is the index
// of the first guard that does not, of a lost lock's if there is one, or -1.
//
// What is in the way although all guards hold is removed first: entries that
// have expired but were not reaped yet. That costs two requests more, and a
// third one where all that is demanded is that there are none: such a request
// does not ask what it is that is in the way, because there nearly never is
// anything, and to ask takes time even so.
func (s *Store) transact(ctx context.Context, guards []guard, ops []*pb.RequestOp) (resp *pb.TxnResponse, failed int, err error) {
	req := &pb.TxnRequest{
		Compare: make([]*pb.Compare, 0, 2*len(guards)),
		Success: ops,
	}
	ask := func() {
		req.Failure = make([]*pb.RequestOp, len(guards))
		for i, g := range guards {
			req.Failure[i] = rangeOp(peek(g.key, nil))
		}
	}
	if slices.ContainsFunc(guards, func(g guard) bool { return g.If != backend.Always }) {
		ask()
	}
	// floors are lowered for keys whose lease is below zero and not ours.
	var floors map[int]int64
	for {
		horizon := s.horizon()
		req.Compare = req.Compare[:0]
		for i, g := range guards {
			floor, ok := floors[i]
			if !ok {
				floor = horizon
			}
			req.Compare = g.compares(req.Compare, floor)
		}
		if err := s.fits(req); err != nil {
			return nil, -1, err
		}
		if resp, err = call(ctx, s, writes, s.kv.Txn, req); err != nil {
			return nil, -1, err
		}
		if resp.Succeeded {
			return resp, -1, nil
		}
		if req.Failure == nil {
			ask()
			continue
		}
		found := func(i int) *mvccpb.KeyValue {
			if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
				return kvs[0]
			}
			return nil
		}
		for i, g := range guards {
			if g.If == backend.LockHeld && !g.holds(found(i)) {
				return resp, i, nil
			}
		}
		var dead []*mvccpb.KeyValue
		explained := false
		for i, g := range guards {
			kv := found(i)
			if kv != nil && g.If != backend.LockHeld && kv.Lease <= horizon {
				explained = true
				if expired(kv.Lease, horizon) {
					dead, kv = append(dead, kv), nil
				} else {
					if floors == nil {
						floors = make(map[int]int64)
					}
					floors[i] = kv.Lease - 1
				}
			}
			if !g.holds(kv) {
				return resp, i, nil
			}
		}
		if err := s.remove(ctx, dead); err != nil {
			return nil, -1, err
		}
		if !explained { // a server that leaves out the lease: see peek
			for _, op := range req.Failure {
				op.GetRequestRange().KeysOnly = false
			}
		}
	}
}

// remove deletes expired entries, each only if it is still the same. Nobody
// can see it, so a lost reply is not uncertain.
func (s *Store) remove(ctx context.Context, dead []*mvccpb.KeyValue) error {
	for _, kv := range dead {
		_, err := call(ctx, s, reads, s.kv.Txn, &pb.TxnRequest{
			Compare: []*pb.Compare{compareMod(kv.Key, pb.Compare_EQUAL, kv.ModRevision)},
			Success: []*pb.RequestOp{deleteOp(kv.Key, nil)},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fits refuses what the server would: it measures the encoded request, and
// drops one that is far too large without reading it.
func (s *Store) fits(req *pb.TxnRequest) error {
	if n := proto.Size(req) + requestOverhead; n > s.o.MaxRequestBytes {
		return fmt.Errorf("%w: the request has %d bytes, the server takes %d", backend.ErrTooLarge, n, s.o.MaxRequestBytes)
	}
	return nil
}

func (s *Store) fitsValue(value []byte) error {
	if limit := s.maxValue(); len(value) > limit {
		return fmt.Errorf("%w: the value has %d bytes, the limit is %d", backend.ErrTooLarge, len(value), limit)
	}
	return nil
}

// What is announced is what is kept to, and leaves room for long keys, which
// stand in a request several times.
func (s *Store) maxValue() int { return s.o.MaxRequestBytes - 4*maxKeyBytes }
func (s *Store) maxTxn() int   { return s.o.MaxRequestBytes - 8*maxKeyBytes }

// leased runs write with a lease for each TTL in ttls that is not 0. Should the
// server refuse because one is gone, or because the user's rights on another
// key under it were withdrawn, it runs once more with new leases.
func (s *Store) leased(ctx context.Context, ttls []backend.Write, write func(ids []int64) error) error {
	ids := make([]int64, len(ttls))
	for retried := false; ; retried = true {
		for i, w := range ttls {
			if w.TTL == 0 {
				continue
			}
			var err error
			if ids[i], err = s.lease(ctx, w.TTL); err != nil {
				return err
			}
		}
		err := write(ids)
		refused := errors.Is(err, rpctypes.ErrLeaseNotFound) || errors.Is(err, rpctypes.ErrPermissionDenied)
		leased := slices.ContainsFunc(ids, func(id int64) bool { return id != 0 })
		if retried || !refused || !leased {
			return err
		}
		s.pool.forget(ids) // unless another call with one of them has
	}
}

// Commit implements backend.Store, with one request (and one more for the
// first of the entries with a TTL that share a lease).
func (s *Store) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	guards := make([]guard, 0, len(t.Checks)+len(t.Writes))
	for _, c := range t.Checks {
		g := guard{key: []byte(s.space.Name(c.Key)), If: c.If, rev: int64(c.Revision)}
		if c.If == backend.LockHeld {
			var err error
			if g.key, g.rev, err = s.seatOf(c); err != nil {
				return backend.TxnResult{}, err
			}
		}
		guards = append(guards, g)
	}
	size := 0
	for _, w := range t.Writes {
		if err := s.fitsValue(w.Value); err != nil {
			return backend.TxnResult{}, err
		}
		size += len(w.Key) + len(w.Value)
	}
	if limit := s.maxTxn(); size > limit {
		return backend.TxnResult{}, fmt.Errorf("%w: the transaction has %d bytes, the limit is %d", backend.ErrTooLarge, size, limit)
	}
	checked := func(key []byte) bool {
		for _, g := range guards[:len(t.Checks)] {
			if g.If != backend.Always && bytes.Equal(g.key, key) {
				return true
			}
		}
		return false
	}
	puts := make([]*pb.PutRequest, len(t.Writes))
	ops := make([]*pb.RequestOp, 0, len(t.Writes))
	for i, w := range t.Writes {
		key := []byte(s.space.Name(w.Key))
		if w.Delete {
			ops = append(ops, deleteOp(key, nil))
			continue
		}
		if !checked(key) {
			guards = append(guards, guard{key: key})
		}
		puts[i] = &pb.PutRequest{Key: key, Value: w.Value}
		if w.KeepTTL {
			ops = append(ops, rangeOp(peek(key, nil)), keepOp(puts[i]))
		} else {
			ops = append(ops, putOp(puts[i]))
		}
	}
	var resp *pb.TxnResponse
	failed := -1
	err := s.leased(ctx, t.Writes, func(ids []int64) (err error) {
		for i, id := range ids {
			if puts[i] != nil {
				puts[i].Lease = id
			}
		}
		resp, failed, err = s.transact(ctx, guards, ops)
		return err
	})
	if err != nil {
		return backend.TxnResult{}, err
	}
	if failed >= 0 {
		c := t.Checks[failed]
		return backend.TxnResult{}, &backend.CheckError{Index: failed, Key: c.Key, Err: c.If.Failed()}
	}
	res := backend.TxnResult{Entries: make([]backend.Entry, len(t.Writes))}
	if len(t.Writes) == 0 {
		return res, nil
	}
	res.Revision = backend.Revision(resp.Header.Revision)
	next := 0
	for i, w := range t.Writes {
		res.Entries[i].Key = w.Key
		if w.Delete {
			next++
			continue
		}
		e := &res.Entries[i]
		e.Revision = res.Revision
		e.Expires = expires(puts[i].Lease)
		if w.KeepTTL {
			if kvs := resp.Responses[next].GetResponseRange().GetKvs(); len(kvs) > 0 {
				e.Created = backend.Revision(kvs[0].CreateRevision)
				e.Expires = expires(kvs[0].Lease)
			}
			next++
		}
		next++
	}
	for i, c := range t.Checks {
		if c.If != backend.Absent {
			continue
		}
		for j := range res.Entries {
			if e := &res.Entries[j]; e.Revision != 0 && bytes.Equal(puts[j].Key, guards[i].key) {
				e.Created = res.Revision
			}
		}
	}
	return res, nil
}

func compareMod(key []byte, r pb.Compare_CompareResult, rev int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: r, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}
}

func compareCreate(key []byte, r pb.Compare_CompareResult, rev int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: r, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}
}

// peek reads keys and leases without the values. Since 3.7 a server answers a
// keys-only range from its index, where no leases are, unless it is to sort by
// value (etcdserver/txn/range.go: FastKeysOnly). So the order is that of the
// values, and a limit must not be set.
func peek(key, end []byte) *pb.RangeRequest {
	return &pb.RangeRequest{Key: key, RangeEnd: end, KeysOnly: true, SortTarget: pb.RangeRequest_VALUE}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

// keepOp is a put that keeps the lease of an entry with a TTL, or another
// program's, and takes a registered key from its owner.
func keepOp(r *pb.PutRequest) *pb.RequestOp {
	lease := func(is pb.Compare_CompareResult, id int64) *pb.Compare {
		return &pb.Compare{Key: r.Key, Target: pb.Compare_LEASE, Result: is, TargetUnion: &pb.Compare_Lease{Lease: id}}
	}
	keep := &pb.PutRequest{Key: r.Key, Value: r.Value, IgnoreLease: true}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
		Compare: []*pb.Compare{lease(pb.Compare_GREATER, aliveFrom-1), lease(pb.Compare_LESS, aliveTo)},
		Success: []*pb.RequestOp{putOp(r)},
		Failure: []*pb.RequestOp{putOp(keep)},
	}}}
}

func deleteOp(key, end []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end}}}
}
