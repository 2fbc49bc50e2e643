package rediskv

import (
	"context"
	"fmt"

	"github.com/polykv/kv/backend"
)

// Commit implements backend.Store. It is one script and one round trip.
func (s *Store) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	size := 0
	for _, w := range t.Writes {
		if err := s.checkSize(w.Key, w.Value); err != nil {
			return backend.TxnResult{}, err
		}
		if size += len(w.Key) + len(w.Value); size > s.caps.MaxTxnBytes {
			return backend.TxnResult{}, fmt.Errorf("%w: a transaction of over %d bytes", backend.ErrTooLarge, s.caps.MaxTxnBytes)
		}
	}
	// The checks come first, those of locks before the others, as a lost lock is told before anything else, each with the
	// write of its key if there is one: the script looks at a key once, and all conditions before the first write.
	ops := make([]op, 0, len(t.Checks)+len(t.Writes))
	checks := make([]int, 0, len(t.Checks)) // of each of the first ops, its check
	for i, c := range t.Checks {
		if c.If == backend.LockHeld {
			ops = append(ops, op{key: c.Holder, condition: 'h', of: s.names.lock(c.Key).contenders, action: '-'})
			checks = append(checks, i)
		}
	}
	at := make(map[string]int, len(t.Checks))
	for i, c := range t.Checks {
		if c.If == backend.LockHeld {
			continue
		}
		if err := s.checkKey(c.Key); err != nil {
			return backend.TxnResult{}, err
		}
		cond, of := condition(c.If, c.Revision)
		at[c.Key] = len(ops)
		ops = append(ops, op{key: c.Key, condition: cond, of: of, action: '-'})
		checks = append(checks, i)
	}
	place := make([]int, len(t.Writes))
	for i, w := range t.Writes {
		j, checked := at[w.Key]
		if !checked {
			j = len(ops)
			ops = append(ops, op{key: w.Key, condition: '-'})
		}
		place[i] = j
		if w.Delete {
			ops[j].action = 'd'
		} else {
			ops[j].action, ops[j].value, ops[j].ttl = 'p', w.Value, ttlArgument(w.TTL, w.KeepTTL)
		}
	}
	res, err := s.write(ctx, ops)
	if err != nil {
		return backend.TxnResult{}, err
	}
	if f := res.failed; f >= 0 {
		if f >= len(t.Checks) {
			return backend.TxnResult{}, fmt.Errorf("%w: a write without a check failed one", backend.ErrCorrupt)
		}
		c := t.Checks[checks[f]]
		return backend.TxnResult{}, &backend.CheckError{Index: checks[f], Key: c.Key, Err: c.If.Failed()}
	}
	out := backend.TxnResult{Revision: res.revision, Entries: make([]backend.Entry, len(t.Writes))}
	for i, w := range t.Writes {
		if w.Delete {
			out.Entries[i] = backend.Entry{Key: w.Key}
		} else {
			out.Entries[i] = res.entry(place[i], w.Key)
		}
	}
	return out, nil
}
