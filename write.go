package kv

import (
	"context"
	"fmt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

func (c *core) writeOptions(opts []WriteOption) (writeOptions, error) {
	var o writeOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.write(o)
		}
	}
	return o, c.checkWrite(o)
}

func (c *core) checkWrite(o writeOptions) error {
	if o.ttlSet {
		return c.checkTTL(o.ttl)
	}
	return nil
}

var errRevisionZero = fmt.Errorf("%w: revision 0", backend.ErrInvalid)

// put is every write of one key. full is what s.full gave.
func (s *Store) put(ctx context.Context, op Op, full string, value []byte, p backend.PutOptions, checks []Check) (backend.Entry, error) {
	contexts.Require(ctx)
	c := s.core
	if p.If == backend.AtRevision && p.Revision == 0 {
		return backend.Entry{}, c.fail(op, full, errRevisionZero)
	}
	if err := c.checkValue(value); err != nil {
		return backend.Entry{}, c.fail(op, full, err)
	}
	var e backend.Entry
	var err error
	switch {
	case len(checks) > 0:
		e, err = c.putChecked(ctx, op, full, value, p, checks)
	case c.intercept != nil:
		e, err = intercepted(c, ctx, op, full, func(ctx context.Context) (backend.Entry, error) {
			return c.b.Put(ctx, full, value, p)
		})
	default:
		e, err = c.b.Put(ctx, full, value, p)
	}
	if err != nil {
		return backend.Entry{}, c.fail(op, full, err)
	}
	e.Key = full
	return e, nil
}

// putChecked is a put under further checks: a transaction of one write.
func (c *core) putChecked(ctx context.Context, op Op, full string, value []byte, p backend.PutOptions, checks []Check) (backend.Entry, error) {
	t := backend.Txn{
		Checks: withOwn(checks, full, p.If, p.Revision),
		Writes: []backend.Write{{Key: full, Value: value, TTL: p.TTL, KeepTTL: p.KeepTTL}},
	}
	r, err := c.commit(ctx, op, full, t)
	if err != nil {
		return backend.Entry{}, err
	}
	return r.Entries[0], nil
}

// withOwn adds the write's own condition to checks.
func withOwn(checks []Check, full string, cond backend.Condition, rev Revision) []Check {
	out := make([]Check, 0, len(checks)+1)
	if cond != backend.Always {
		out = append(out, Check{If: cond, Key: full, Revision: rev})
	}
	return append(out, checks...)
}

// commit sends a transaction, which is validated here and nowhere else.
func (c *core) commit(ctx context.Context, op Op, key string, t backend.Txn) (backend.TxnResult, error) {
	contexts.Require(ctx)
	if err := c.validTxn(t); err != nil {
		return backend.TxnResult{}, err
	}
	if c.intercept != nil {
		return intercepted(c, ctx, op, key, func(ctx context.Context) (backend.TxnResult, error) {
			return c.b.Commit(ctx, t)
		})
	}
	return c.b.Commit(ctx, t)
}

func (s *Store) delete(ctx context.Context, key string, opts []DeleteOption) error {
	full, err := s.full(OpDelete, key)
	if err != nil {
		return err
	}
	var o deleteOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.delete(o)
		}
	}
	c := s.core
	if o.cond == backend.AtRevision && o.revision == 0 {
		return c.fail(OpDelete, full, errRevisionZero)
	}
	if len(o.checks) > 0 {
		// A delete by itself wants the key to be there; a transaction does
		// not mind.
		cond := o.cond
		if cond == backend.Always {
			cond = backend.Present
		}
		t := backend.Txn{
			Checks: withOwn(o.checks, full, cond, o.revision),
			Writes: []backend.Write{{Key: full, Delete: true}},
		}
		_, err = c.commit(ctx, OpDelete, full, t)
		return c.fail(OpDelete, full, err)
	}
	p := backend.DeleteOptions{If: o.cond, Revision: o.revision}
	return c.do(ctx, OpDelete, full, func(ctx context.Context) error { return c.b.Delete(ctx, full, p) })
}

var errDeleteAll = fmt.Errorf("%w: the prefix \"\" of a store without a prefix: give the store a prefix, or delete by key", backend.ErrInvalid)

func (s *Store) deletePrefix(ctx context.Context, prefix string) (int64, error) {
	full, err := s.fullPrefix(OpDeletePrefix, prefix)
	if err != nil {
		return 0, err
	}
	c := s.core
	if full == "" {
		return 0, c.fail(OpDeletePrefix, "", errDeleteAll)
	}
	var n int64
	err = c.do(ctx, OpDeletePrefix, full, func(ctx context.Context) (err error) {
		n, err = c.b.DeletePrefix(ctx, full)
		return err
	})
	return n, err
}
