package memkv

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// step runs f on the store's state, alone, and publishes what f did.
func (s *Store) step(ctx context.Context, f func(*embedded.Step) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.session.Usable(ctx); err != nil { // under mu, so that Close waits for the call
		return err
	}
	return s.run(f)
}

// run is step for a caller that holds mu. Keys whose time has come go first.
func (m *memory) run(f func(*embedded.Step) error) error {
	st := &embedded.Step{Table: (*table)(m), Locks: m.locks, Now: m.now()}
	defer st.Unpin()
	err := m.reapDue(st)
	if err == nil {
		err = f(st)
	}
	m.feed.Publish(st.Commits...)
	if next, ok := m.expiries.Min(); ok {
		m.alarm.Set(m.start.Add(time.UnixMilli(next.deadline).Sub(m.start.Round(0))))
	}
	return err
}

func (m *memory) reapDue(st *embedded.Step) error {
	for {
		next, ok := m.expiries.Min()
		if !ok || st.Now.UnixMilli() < next.deadline {
			return nil
		}
		r, _, err := st.Table.Get(next.key)
		if err != nil {
			return err
		}
		if err := st.Reap(next.key, r); err != nil {
			return err
		}
	}
}

// reap is what the alarm does.
func (m *memory) reap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.run(func(*embedded.Step) error { return nil }) // nothing in memory fails
}

// table is a memory as embedded.Table. The caller holds mu.
type table memory

func (t *table) Get(key string) (embedded.Record, bool, error) {
	it, ok := t.items.Get(item{key: key})
	if !ok {
		return embedded.Record{}, false, nil
	}
	return *it.record, true, nil
}

func (t *table) Set(key string, r, old embedded.Record) error {
	if old.Deadline != r.Deadline {
		if old.Deadline != 0 {
			t.expiries.Delete(expiry{old.Deadline, key})
		}
		if r.Deadline != 0 {
			t.expiries.ReplaceOrInsert(expiry{r.Deadline, key})
		}
	}
	t.items.ReplaceOrInsert(item{key, &r})
	return nil
}

func (t *table) Remove(key string, old embedded.Record) error {
	if old.Deadline != 0 {
		t.expiries.Delete(expiry{old.Deadline, key})
	}
	t.items.Delete(item{key: key})
	return nil
}

func (t *table) NextRevision() (backend.Revision, error) {
	t.revision++
	return t.revision, nil
}

// apply runs one operation whose first check, if it fails, is the error.
func (s *Store) apply(ctx context.Context, op embedded.Op) (backend.Entry, error) {
	var res backend.TxnResult
	err := s.step(ctx, func(st *embedded.Step) (err error) {
		res, err = st.Apply(op)
		return err
	})
	if err != nil {
		if failed := (*backend.CheckError)(nil); errors.As(err, &failed) {
			err = failed.Err
		}
		return backend.Entry{}, err
	}
	return res.Entries[0], nil
}

// Put implements backend.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if err := s.limits.CheckWrite(key, value); err != nil {
		return backend.Entry{}, err
	}
	return s.apply(ctx, embedded.Op{
		Checks: []backend.Check{{If: o.If, Key: key, Revision: o.Revision}},
		Writes: []backend.Write{{Key: key, Value: bytes.Clone(value), TTL: o.TTL, KeepTTL: o.KeepTTL}},
	})
}

// Delete implements backend.Store.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	if err := s.limits.CheckKey(key); err != nil {
		return err
	}
	_, err := s.apply(ctx, embedded.DeleteOp(key, o))
	return err
}

// DeletePrefix implements backend.Store.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (n int64, err error) {
	err = s.step(ctx, func(st *embedded.Step) error {
		r := embedded.RangeOf(prefix, backend.ListOptions{})
		var keys []string
		s.items.AscendGreaterOrEqual(item{key: r.Start()}, func(it item) bool {
			if !r.Covers(it.key) {
				return false
			}
			keys = append(keys, it.key)
			return true
		})
		n, err = st.RemoveAll(keys)
		return err
	})
	return n, err
}

// Commit implements backend.Store.
func (s *Store) Commit(ctx context.Context, t backend.Txn) (res backend.TxnResult, err error) {
	if err := s.limits.CheckTxn(t); err != nil {
		return backend.TxnResult{}, err
	}
	writes := make([]backend.Write, len(t.Writes))
	for i, w := range t.Writes {
		w.Value = bytes.Clone(w.Value)
		writes[i] = w
	}
	err = s.step(ctx, func(st *embedded.Step) error {
		res, err = st.Apply(embedded.Op{Checks: t.Checks, Writes: writes})
		return err
	})
	return res, err
}

// Register implements backend.Store.
func (s *Store) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	if err := s.limits.CheckWrite(key, value); err != nil {
		return nil, err
	}
	ttl := max(o.TTL, minLease)
	e, err := s.apply(ctx, embedded.RegisterOp(key, value, ttl, o))
	if err != nil {
		return nil, err
	}
	return embedded.NewLease((*keeper)(s), s.session, e, ttl), nil
}

// keeper is a Store as embedded.Keeper.
type keeper Store

func (k *keeper) RenewLease(ctx context.Context, key string, lease backend.Revision, ttl time.Duration) error {
	return (*Store)(k).step(ctx, func(st *embedded.Step) error { return st.Renew(key, lease, ttl) })
}

func (k *keeper) SetLease(ctx context.Context, key string, lease backend.Revision, value []byte) (backend.Entry, error) {
	if err := k.limits.CheckWrite(key, value); err != nil {
		return backend.Entry{}, err
	}
	return (*Store)(k).apply(ctx, embedded.Op{
		Writes: []backend.Write{{Key: key, Value: bytes.Clone(value)}}, Owner: lease,
	})
}

// ReleaseLease does its work with an ended ctx too: there is nothing to wait for.
func (k *keeper) ReleaseLease(ctx context.Context, key string, lease backend.Revision) error {
	_, err := (*Store)(k).apply(context.WithoutCancel(ctx), embedded.Op{
		Writes: []backend.Write{{Key: key, Delete: true}}, Owner: lease,
	})
	return err
}
