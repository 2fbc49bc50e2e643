package etcdkv

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
)

// Register implements backend.Store, with two requests: for the lease, and for
// the key. The lease is not one of those whose expiry is fixed.
func (s *Store) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	if err := s.fitsValue(value); err != nil {
		return nil, err
	}
	end, ok := s.begin()
	if !ok {
		return nil, backend.ErrClosed
	}
	defer end()
	lease, err := s.leaseFor(ctx, o.TTL, false)
	if err != nil {
		return nil, err
	}
	g := guard{key: []byte(s.space.Name(key))}
	if o.Absent {
		g.If = backend.Absent
	}
	put := putOp(&pb.PutRequest{Key: g.key, Value: value, Lease: lease.id})
	resp, failed, err := s.transact(ctx, []guard{g}, []*pb.RequestOp{put})
	switch {
	case err != nil:
		s.work.Go(func() { _ = s.revoke(lease) }) // or it ends by itself
		return nil, err
	case failed >= 0:
		s.rest(lease)
		return nil, backend.ErrExists
	}
	r := &registration{
		s: s, native: g.key, lease: lease,
		busy:  make(chan struct{}, 1),
		entry: backend.Entry{Key: key, Revision: backend.Revision(resp.Header.Revision)},
	}
	if o.Absent {
		r.entry.Created = r.entry.Revision
	}
	if !s.hold(r) {
		s.work.Go(func() { _ = s.revoke(lease) })
		return nil, backend.ErrClosed
	}
	return r, nil
}

// registration is a backend.Lease.
type registration struct {
	s      *Store
	native []byte
	lease  alive
	busy   chan struct{} // one request at a time: Renew has to know what Set wrote

	mu     sync.Mutex
	entry  backend.Entry
	unsure bool // a Set whose reply was lost may have changed the revision
	over   bool // lost or released
	done   chan struct{}
	err    error // of Release
}

// Entry implements backend.Lease.
func (r *registration) Entry() backend.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entry
}

// TTL implements backend.Lease.
func (r *registration) TTL() time.Duration { return r.lease.ttl }

// enter waits for its turn.
func (r *registration) enter(ctx context.Context) (leave func(), err error) {
	if err := r.s.usable(ctx); err != nil {
		return nil, err
	}
	select {
	case r.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, backend.ContextError(ctx)
	case <-r.s.life.Done():
		return nil, backend.ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		<-r.busy
		return nil, backend.ErrLeaseLost
	}
	return func() { <-r.busy }, nil
}

func (r *registration) lost() error {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.s.drop(r)
	return backend.ErrLeaseLost
}

// Renew implements backend.Lease: it renews, and looks whether the key is still
// the one that was written.
func (r *registration) Renew(ctx context.Context) error {
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	there, err := r.s.keepAlive(ctx, r.lease.id)
	switch {
	case err != nil:
		return err
	case !there:
		return r.lost()
	}
	resp, err := call(ctx, r.s, reads, r.s.kv.Range, peek(r.native, nil))
	if err != nil {
		return err
	}
	r.mu.Lock()
	rev, unsure := r.entry.Revision, r.unsure
	r.mu.Unlock()
	if len(resp.Kvs) == 0 {
		return r.lost()
	}
	switch kv := resp.Kvs[0]; {
	case backend.Revision(kv.ModRevision) == rev:
	case unsure && kv.Lease == r.lease.id:
		r.wrote(kv.ModRevision)
	default:
		return r.lost()
	}
	return nil
}

func (r *registration) wrote(rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entry.Revision, r.unsure = backend.Revision(rev), false
}

// Set implements backend.Lease.
func (r *registration) Set(ctx context.Context, value []byte) (backend.Entry, error) {
	if err := r.s.fitsValue(value); err != nil {
		return backend.Entry{}, err
	}
	leave, err := r.enter(ctx)
	if err != nil {
		return backend.Entry{}, err
	}
	defer leave()
	r.mu.Lock()
	rev, unsure := int64(r.entry.Revision), r.unsure
	r.mu.Unlock()
	req := &pb.TxnRequest{
		Compare: []*pb.Compare{compareMod(r.native, pb.Compare_EQUAL, rev)},
		Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: r.native, Value: value, Lease: r.lease.id})},
	}
	if unsure {
		req.Compare[0] = &pb.Compare{
			Key: r.native, Target: pb.Compare_LEASE, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_Lease{Lease: r.lease.id},
		}
	}
	resp, err := call(ctx, r.s, writes, r.s.kv.Txn, req)
	switch {
	case errors.Is(err, backend.ErrUncertain):
		r.mu.Lock()
		r.unsure = true
		r.mu.Unlock()
		return backend.Entry{}, err
	case isLeaseNotFound(err):
		return backend.Entry{}, r.lost()
	case err != nil:
		return backend.Entry{}, err
	case !resp.Succeeded:
		return backend.Entry{}, r.lost()
	}
	r.wrote(resp.Header.Revision)
	return r.Entry(), nil
}

// Release implements backend.Lease: revoking the lease deletes the key if it is
// still bound to it.
func (r *registration) Release(ctx context.Context) error {
	r.mu.Lock()
	if r.done == nil && !r.over {
		end, ok := r.s.begin()
		if !ok {
			r.mu.Unlock()
			return backend.ErrClosed // which gives it back
		}
		done := make(chan struct{})
		r.done, r.over = done, true
		r.s.work.Go(func() {
			defer end()
			defer close(done)
			r.err = r.s.revoke(r.lease)
			r.s.drop(r)
		})
	}
	done := r.done
	r.mu.Unlock()
	if done == nil {
		return nil // lost
	}
	return await(ctx, done, &r.err)
}

// abandon is Release for Close.
func (r *registration) abandon() {
	r.mu.Lock()
	over := r.over
	r.over = true
	r.mu.Unlock()
	if !over {
		_ = r.s.revoke(r.lease) // or it ends by itself
	}
}
