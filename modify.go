package kv

import (
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// modify is Modify for Stores and Typeds: next turns what is there into the
// new bytes.
func (s *Store) modify(ctx context.Context, key string, opts []ModifyOption, next func(backend.Entry) ([]byte, error)) (backend.Entry, error) {
	full, err := s.full(OpModify, key)
	if err != nil {
		return backend.Entry{}, err
	}
	c := s.core
	var o writeOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.modify(o)
		}
	}
	err = c.checkWrite(o)
	if err == nil && len(o.checks) > 0 { // before the read
		err = c.validTxn(backend.Txn{Checks: withOwn(o.checks, full, backend.Present, 0)})
	}
	if err != nil {
		return backend.Entry{}, c.fail(OpModify, full, err)
	}
	var e backend.Entry
	err = c.do(ctx, OpModify, full, func(ctx context.Context) error {
		b := backoff.Backoff{Min: time.Millisecond, Max: 250 * time.Millisecond}
		for {
			var again bool
			var err error
			if e, again, err = s.modifyOnce(ctx, key, full, o, next); !again {
				return err
			}
			if !b.Wait(ctx) {
				return backend.Because(contextError(ctx), err)
			}
		}
	})
	return e, err
}

// modifyOnce is one attempt; again says that another writer came between. An
// ErrUncertain is not tried again: if the write was applied, a second round
// would apply the change twice.
func (s *Store) modifyOnce(ctx context.Context, key, full string, o writeOptions, next func(backend.Entry) ([]byte, error)) (e backend.Entry, again bool, err error) {
	cur, err := s.get(ctx, key, backend.GetOptions{})
	switch {
	case err == nil:
	case errors.Is(err, ErrNotFound) && o.upsert:
		cur = backend.Entry{Key: full}
	default:
		return e, false, err
	}
	value, err := next(cur)
	if err != nil {
		return e, false, err
	}
	op, p := OpUpdate, backend.PutOptions{If: backend.AtRevision, Revision: cur.Revision, TTL: o.ttl, KeepTTL: !o.ttlSet}
	if cur.Revision == 0 {
		op, p = OpCreate, backend.PutOptions{If: backend.Absent, TTL: o.ttl}
	}
	e, err = s.put(ctx, op, full, value, p, o.checks)
	var check *backend.CheckError
	if errors.As(err, &check) && check.Key != full {
		return e, false, err // a check of the caller's, which another round does not mend
	}
	return e, errors.Is(err, ErrConflict) || errors.Is(err, ErrExists), err
}
