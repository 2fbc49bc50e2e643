package boltkv

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// step is write for this store's session.
func (s *Store) step(ctx context.Context, f func(*table) error) error {
	if s.session.Closed() {
		return backend.ErrClosed
	}
	return s.write(ctx, s.session.Done(), f)
}

// apply runs one operation.
func (s *Store) apply(ctx context.Context, op embedded.Op) (backend.TxnResult, error) {
	// The committer writes to res, perhaps after this call was abandoned.
	res := new(backend.TxnResult)
	err := s.step(ctx, func(t *table) (err error) {
		*res, err = t.step.Apply(op)
		return err
	})
	if err != nil {
		return backend.TxnResult{}, err
	}
	return *res, nil
}

// applyOne runs an operation on one key, whose first check, if it fails, is
// the error.
func (s *Store) applyOne(ctx context.Context, op embedded.Op) (backend.Entry, error) {
	res, err := s.apply(ctx, op)
	if failed := (*backend.CheckError)(nil); errors.As(err, &failed) {
		err = failed.Err
	}
	if err != nil {
		return backend.Entry{}, err
	}
	return res.Entries[0], nil
}

// Put implements backend.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if err := s.limits.CheckWrite(key, value); err != nil {
		return backend.Entry{}, err
	}
	op := embedded.Op{Writes: []backend.Write{{
		Key: key, Value: bytes.Clone(value), TTL: o.TTL, KeepTTL: o.KeepTTL,
	}}}
	if o.If != backend.Always {
		op.Checks = []backend.Check{{If: o.If, Key: key, Revision: o.Revision}}
	}
	return s.applyOne(ctx, op)
}

// Delete implements backend.Store.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	if err := s.limits.CheckKey(key); err != nil {
		return err
	}
	_, err := s.applyOne(ctx, embedded.DeleteOp(key, o))
	return err
}

// DeletePrefix implements backend.Store. It is one transaction, which holds
// the keys in memory; of their values, as previous ones of the events, no more
// than WatchBuffer.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	n := new(int64)
	err := s.step(ctx, func(t *table) (err error) {
		*n, err = t.step.RemoveAll(t.below(prefix))
		return err
	})
	if err != nil {
		return 0, err
	}
	return *n, nil
}

// Commit implements backend.Store.
func (s *Store) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	if err := s.limits.CheckTxn(t); err != nil {
		return backend.TxnResult{}, err
	}
	op := embedded.Op{
		Checks: append([]backend.Check(nil), t.Checks...),
		Writes: append([]backend.Write(nil), t.Writes...),
	}
	for i, w := range op.Writes {
		op.Writes[i].Value = bytes.Clone(w.Value)
	}
	return s.apply(ctx, op)
}

// Register implements backend.Store.
func (s *Store) Register(
	ctx context.Context, key string, value []byte, o backend.RegisterOptions,
) (backend.Lease, error) {
	if err := s.limits.CheckWrite(key, value); err != nil {
		return nil, err
	}
	ttl := max(o.TTL, minLease)
	e, err := s.applyOne(ctx, embedded.RegisterOp(key, value, ttl, o))
	if err != nil {
		return nil, err
	}
	return embedded.NewLease((*keeper)(s), s.session, e, ttl), nil
}

// keeper is a Store as embedded.Keeper.
type keeper Store

func (k *keeper) RenewLease(ctx context.Context, key string, lease backend.Revision, ttl time.Duration) error {
	return (*Store)(k).step(ctx, func(t *table) error { return t.step.Renew(key, lease, ttl) })
}

func (k *keeper) SetLease(
	ctx context.Context, key string, lease backend.Revision, value []byte,
) (backend.Entry, error) {
	if err := k.limits.CheckWrite(key, value); err != nil {
		return backend.Entry{}, err
	}
	return (*Store)(k).applyOne(ctx, embedded.Op{
		Writes: []backend.Write{{Key: key, Value: bytes.Clone(value)}}, Owner: lease,
	})
}

// ReleaseLease goes on when ctx ends, also before it began: Close waits for it.
func (k *keeper) ReleaseLease(ctx context.Context, key string, lease backend.Revision) error {
	done := make(chan error, 1)
	started := k.spawn(func() {
		done <- (*Store)(k).step(context.WithoutCancel(ctx), func(t *table) error {
			return releaseLease(t, key, lease)
		})
	})
	if !started {
		return backend.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

func releaseLease(t *table, key string, lease backend.Revision) error {
	_, err := t.step.Apply(embedded.Op{Writes: []backend.Write{{Key: key, Delete: true}}, Owner: lease})
	return err
}
