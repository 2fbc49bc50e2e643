package kv

import (
	"context"
	"fmt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keys"
)

// Txn collects checks and writes that Commit applies together or not at all:
// at most 64 operations, one check and one write for each key. A Create, an
// Update and a Delete with IfRevision are two, a check and a write, and so
// exclude another check of their key. Its own methods take bytes under the keys
// of the store that made it; In of a Typed or of another view of the same store
// adds that one's prefix, codec and verbs.
//
// What is wrong with an operation is reported by Commit, before any I/O. A Txn
// is for one goroutine and one Commit.
type Txn struct {
	TxnView[[]byte]
	core *core
	t    backend.Txn
	err  error
	done bool
}

// condition makes a check of the key below s. What is no key, or lies in a view
// with a bad prefix, is no canonical key in the check either: validTxn refuses
// it in the call that is given the check.
func (s *Store) condition(cond backend.Condition, key string, rev Revision) Check {
	k, err := keys.Canonical(key)
	switch {
	case err != nil:
		k = key
	case s.bad != nil:
		k = "/" + k
	default:
		k = keys.Join(s.prefix, k)
	}
	return Check{If: cond, Key: k, Revision: rev}
}

// Txn begins a transaction. It does no I/O.
func (s *Store) Txn() *Txn {
	t := &Txn{core: s.core}
	t.TxnView = TxnView[[]byte]{t: t, r: reader[[]byte]{s: s}}
	return t
}

// In returns t under the keys of s, which must share t's store.
func (s *Store) In(t *Txn) TxnView[[]byte] {
	return inTxn(t, reader[[]byte]{s: s})
}

func inTxn[T any](t *Txn, r reader[T]) TxnView[T] {
	if t.core != r.s.core {
		t.fail(fmt.Errorf("%w: a transaction spans two stores", ErrInvalid))
	}
	return TxnView[T]{t: t, r: r}
}

func (t *Txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// If adds checks, a lock's for instance.
func (t *Txn) If(checks ...Check) { t.t.Checks = append(t.t.Checks, checks...) }

// Commit applies the transaction. If a check fails nothing is written, and the
// error matches *CheckError and the check's sentinel: ErrExists, ErrNotFound,
// ErrConflict or ErrLockLost, which comes before any other. Deleting an absent
// key is no failure. Errors besides: ErrInvalid and ErrInvalidKey for what was
// collected, ErrTooLarge for more than 64 operations or
// Capabilities.MaxTxnBytes (all before any I/O), errors.ErrUnsupported where
// the store cannot do it in one step, ErrUncertain, ErrUnavailable,
// ErrPermission, ErrClosed, the context's.
//
// The result has an entry for each write in order, its key as the driver sees
// it, without values.
func (t *Txn) Commit(ctx context.Context) (TxnResult, error) {
	contexts.Require(ctx)
	c, s := t.core, t.r.s
	if err := s.check(OpCommit); err != nil {
		return TxnResult{}, err
	}
	switch {
	case t.done:
		t.fail(fmt.Errorf("%w: the transaction was committed already", ErrInvalid))
	case t.err == nil && len(t.t.Checks)+len(t.t.Writes) == 0:
		return TxnResult{}, s.ready(ctx, OpCommit)
	}
	if t.err != nil {
		return TxnResult{}, c.fail(OpCommit, "", t.err)
	}
	t.done = true
	r, err := c.commit(ctx, OpCommit, "", t.t)
	return r, c.fail(OpCommit, "", err)
}

// TxnView is a transaction under one view's keys and codec.
type TxnView[T any] struct {
	t *Txn
	r reader[T]
}

// Put writes val at key.
func (v TxnView[T]) Put(key string, val T, opts ...WriteOption) {
	v.write(OpPut, key, val, backend.Always, 0, opts)
}

// Create writes val at key if there is no such key, else the commit fails with
// ErrExists.
func (v TxnView[T]) Create(key string, val T, opts ...WriteOption) {
	v.write(OpCreate, key, val, backend.Absent, 0, opts)
}

// Update writes val at key if that is at revision rev, else the commit fails
// with ErrConflict.
func (v TxnView[T]) Update(key string, val T, rev Revision, opts ...WriteOption) {
	v.write(OpUpdate, key, val, backend.AtRevision, rev, opts)
}

// Delete removes key if it is there.
func (v TxnView[T]) Delete(key string, opts ...DeleteOption) {
	full, err := v.r.s.full(OpDelete, key)
	if err != nil {
		v.t.fail(err)
		return
	}
	var o deleteOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.delete(o)
		}
	}
	if o.cond != backend.Always {
		v.check(o.cond, full, o.revision)
	}
	v.t.If(o.checks...)
	v.t.t.Writes = append(v.t.t.Writes, backend.Write{Key: full, Delete: true})
}

// IfAbsent checks that there is no such key: ErrExists.
func (v TxnView[T]) IfAbsent(key string) { v.checkKey(backend.Absent, key, 0) }

// IfPresent checks that there is such a key: ErrNotFound.
func (v TxnView[T]) IfPresent(key string) { v.checkKey(backend.Present, key, 0) }

// IfRevision checks that key is at revision rev: ErrConflict.
func (v TxnView[T]) IfRevision(key string, rev Revision) { v.checkKey(backend.AtRevision, key, rev) }

func (v TxnView[T]) checkKey(cond backend.Condition, key string, rev Revision) {
	full, err := v.r.s.full(OpCommit, key)
	if err != nil {
		v.t.fail(err)
		return
	}
	v.check(cond, full, rev)
}

func (v TxnView[T]) check(cond backend.Condition, full string, rev Revision) {
	if cond == backend.AtRevision && rev == 0 {
		v.t.fail(errRevisionZero)
		return
	}
	v.t.If(Check{If: cond, Key: full, Revision: rev})
}

func (v TxnView[T]) write(op Op, key string, val T, cond backend.Condition, rev Revision, opts []WriteOption) {
	c := v.t.core
	full, err := v.r.s.full(op, key)
	if err != nil {
		v.t.fail(err)
		return
	}
	o, err := c.writeOptions(opts)
	if err != nil {
		v.t.fail(c.fail(op, full, err))
		return
	}
	value, err := encode(v.r.c, nil, val)
	if err == nil {
		err = c.checkValue(value)
	}
	if err != nil {
		v.t.fail(c.fail(op, full, err))
		return
	}
	if cond != backend.Always {
		v.check(cond, full, rev)
	}
	v.t.If(o.checks...)
	v.t.t.Writes = append(v.t.t.Writes, backend.Write{Key: full, Value: value, TTL: o.ttl})
}

// encode appends val's bytes to dst. With a nil codec T is []byte.
func encode[T any](c codec.Codec[T], dst []byte, val T) ([]byte, error) {
	if c == nil {
		return *any(&val).(*[]byte), nil
	}
	return c.Append(dst, val)
}

// validTxn refuses what no store could apply, or stores would apply
// differently.
func (c *core) validTxn(t backend.Txn) error {
	if err := c.checkTxn(t); err != nil {
		return err
	}
	checked := make(map[string]bool, len(t.Checks))
	for _, ch := range t.Checks {
		// A lock's name is not a key: both may stand in one transaction.
		id := ch.Key
		if ch.If == backend.LockHeld {
			id += "/" + ch.Holder
		}
		switch {
		case ch.If == backend.Always || ch.If > backend.LockHeld:
			return fmt.Errorf("%w: a check without a condition", ErrInvalid)
		case ch.If == backend.AtRevision && ch.Revision == 0:
			return errRevisionZero
		case ch.If != backend.LockHeld && !keys.IsCanonical(ch.Key):
			if _, err := keys.Canonical(ch.Key); err != nil {
				return backend.Because(ErrInvalidKey, fmt.Errorf("in a check: %w", err))
			}
			return backend.Because(ErrInvalidKey, fmt.Errorf("in a check: %s is not as Store.Key gives it", quoteKey(ch.Key)))
		case ch.If != backend.LockHeld && len(ch.Key) > c.maxKeyBytes():
			return backend.Because(ErrInvalidKey, tooLong(len(ch.Key)))
		case checked[id]:
			return fmt.Errorf("%w: two checks of %s", ErrInvalid, quoteKey(ch.Key))
		}
		checked[id] = true
	}
	written := make(map[string]bool, len(t.Writes))
	for _, w := range t.Writes {
		if written[w.Key] {
			return fmt.Errorf("%w: two writes of %s", ErrInvalid, quoteKey(w.Key))
		}
		written[w.Key] = true
	}
	return nil
}
