package consulkv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Commit implements backend.Store, in one request. It reads first, all keys in
// one more, if t has a check Present, or AtRevision of a key that this Store
// has not lately seen at that revision: the transaction itself cannot tell
// whether an entry has expired. Each check and delete is one operation of
// Consul's, each put two, so that 64 always fit into 128.
//
// Errors: *backend.CheckError, backend.ErrInvalid, ErrTooLarge, ErrPermission,
// ErrUnavailable, ErrUncertain.
func (s *Store) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	p, err := s.plan(t)
	if err != nil {
		return backend.TxnResult{}, err
	}
	var wait backoff.Backoff
	for {
		ops, err := p.prepare(ctx)
		if err != nil {
			return backend.TxnResult{}, err
		}
		o, err := s.run(ctx, ops, len(t.Writes) > 0, false)
		if err != nil {
			return backend.TxnResult{}, err
		}
		if o.ok() {
			return p.result(ctx, o)
		}
		if err := p.explain(ctx, o.firstFailed()); err != nil {
			return backend.TxnResult{}, err
		}
		if !wait.Wait(ctx) {
			return backend.TxnResult{}, backend.ContextError(ctx)
		}
	}
}

// plan is a transaction on its way into Consul's terms.
type plan struct {
	s      *Store
	t      backend.Txn
	checks []string       // native names; of a lock's check none
	writes []string       // native names
	guard  map[string]int // which check a key has
	known  []fact         // for each check: the entry that it holds for
	locks  []txnOp        // the checks of locks, which are the first operations
	order  []int          // of each of the first operations, its check
}

func (s *Store) plan(t backend.Txn) (*plan, error) {
	if n := len(t.Checks) + len(t.Writes); n > backend.MaxTxnOps {
		return nil, fmt.Errorf("%w: %d operations, the limit is %d", backend.ErrTooLarge, n, backend.MaxTxnOps)
	}
	p := &plan{
		s: s, t: t,
		checks: make([]string, len(t.Checks)),
		writes: make([]string, len(t.Writes)),
		guard:  make(map[string]int, len(t.Checks)),
		known:  make([]fact, len(t.Checks)),
	}
	for i, c := range t.Checks {
		name, err := s.name(c.Key)
		if err != nil {
			return nil, err
		}
		switch c.If {
		case backend.Absent, backend.Present:
		case backend.AtRevision:
			if c.Revision == 0 {
				return nil, fmt.Errorf("%w: revision 0", backend.ErrInvalid)
			}
		case backend.LockHeld:
			op, err := s.heldOp(c)
			if err != nil {
				return nil, err
			}
			p.locks, p.order = append(p.locks, op), append(p.order, i)
			continue
		default:
			return nil, fmt.Errorf("%w: condition %v of a check", backend.ErrInvalid, c.If)
		}
		p.checks[i] = name
		p.guard[name] = i
	}
	for i, c := range t.Checks {
		if c.If != backend.LockHeld {
			p.order = append(p.order, i)
		}
	}
	bytes := 0
	for i, w := range t.Writes {
		name, err := s.name(w.Key)
		if err != nil {
			return nil, err
		}
		bytes += len(w.Key) + len(w.Value)
		if err := s.fits(w.Value); err != nil {
			return nil, err
		}
		c, guarded := p.guard[name]
		if err := validTTL(w.TTL, w.KeepTTL, guarded && t.Checks[c].If == backend.AtRevision); err != nil {
			return nil, err
		}
		p.writes[i] = name
	}
	if limit := s.maxTxn(); bytes > limit {
		return nil, fmt.Errorf("%w: %d bytes of keys and values, the limit is %d", backend.ErrTooLarge, bytes, limit)
	}
	return p, nil
}

// learn finds out, for each check Present and AtRevision, at which entry it
// holds, or fails with the check that does not.
func (p *plan) learn(ctx context.Context) error {
	var ask []int // checks
	var names []string
	for i, c := range p.t.Checks {
		switch c.If {
		case backend.Present:
		case backend.AtRevision:
			if f, ok := p.s.facts.find(p.checks[i], uint64(c.Revision)); ok {
				p.known[i] = f
				continue
			}
		default:
			continue
		}
		p.known[i] = fact{}
		ask = append(ask, i)
		names = append(names, p.checks[i])
	}
	if len(ask) > 0 {
		err := p.s.getMany(ctx, names, consistent, func(i int, f found) {
			p.known[ask[i]] = fact{rev: f.modify, flags: f.flags, session: f.session}
		})
		if err != nil {
			return err
		}
	}
	now := time.Now()
	for i, c := range p.t.Checks {
		if c.If != backend.Present && c.If != backend.AtRevision {
			continue
		}
		f := p.known[i]
		gone := f.rev == 0 || p.s.expired(f.flags, now)
		if gone || c.If == backend.AtRevision && f.rev != uint64(c.Revision) {
			if err := p.held(ctx); err != nil {
				return err
			}
			return p.failed(i)
		}
	}
	return nil
}

// held fails with the check of a lock that is lost, which is told before any
// other one that fails.
func (p *plan) held(ctx context.Context) error {
	if len(p.locks) == 0 {
		return nil
	}
	o, err := p.s.run(ctx, p.locks, false, false)
	if err != nil || o.ok() {
		return err
	}
	return p.failed(p.order[o.firstFailed()])
}

func (p *plan) failed(check int) error {
	c := p.t.Checks[check]
	return &backend.CheckError{Index: check, Key: c.Key, Err: c.If.Failed()}
}

// prepare returns the operations; the first ones are the checks, as in order.
func (p *plan) prepare(ctx context.Context) ([]txnOp, error) {
	if err := p.learn(ctx); err != nil {
		return nil, err
	}
	ops := make([]txnOp, 0, len(p.t.Checks)+2*len(p.t.Writes))
	ops = append(ops, p.locks...)
	for _, i := range p.order[len(p.locks):] {
		if p.t.Checks[i].If == backend.Absent {
			ops = append(ops, checkAbsent(p.checks[i]))
		} else {
			ops = append(ops, checkIndex(p.checks[i], p.known[i].rev))
		}
	}
	puts := 0
	for _, w := range p.t.Writes {
		if !w.Delete {
			puts++
		}
	}
	for i, w := range p.t.Writes {
		name := p.writes[i]
		c, guarded := p.guard[name]
		switch {
		case w.Delete:
			if puts == 0 && i == 0 {
				// Nothing but the answer to a set tells the revision.
				ops = append(ops, txnOp{kvOp{Verb: verbSet, Key: name, Flags: scratch}})
			}
			ops = append(ops, txnOp{kvOp{Verb: verbDelete, Key: name}})
		case guarded && p.t.Checks[c].If == backend.Absent:
			ops = append(ops, txnOp{kvOp{Verb: verbSet, Key: name, Value: w.Value, Flags: p.flags(i)}})
		case guarded:
			ops = replace(ops, name, w.Value, p.flags(i), p.known[c])
		default:
			ops = overwrite(ops, name, w.Value, p.flags(i))
		}
	}
	return ops, nil
}

// flags are those of a put.
func (p *plan) flags(write int) uint64 {
	w := p.t.Writes[write]
	if w.KeepTTL {
		if old := p.known[p.guard[p.writes[write]]].flags; expiryOf(old) != 0 {
			return old
		}
	}
	return expiryFlags(w.TTL)
}

// explain turns the failed operation into the failed check, or returns nil if
// the transaction is to be tried again.
func (p *plan) explain(ctx context.Context, op int) error {
	if op >= len(p.t.Checks) {
		// A session that was known to own the key has gone, and the key's
		// revision with it, so its check failed too.
		return fmt.Errorf("%w: operation %d failed without a check", backend.ErrUnavailable, op)
	}
	check := p.order[op]
	switch p.t.Checks[check].If {
	case backend.Absent:
		err := p.s.clear(ctx, p.checks[check])
		if err == nil { // it was an expired entry, or is none of ours to ask for
			err = p.s.permitted(ctx, p.checks[check])
		}
		if !errors.Is(err, backend.ErrExists) {
			return err
		}
	case backend.Present:
		return nil // changed since it was read
	}
	return p.failed(check)
}

func (p *plan) result(ctx context.Context, o outcome) (backend.TxnResult, error) {
	if len(p.t.Writes) == 0 {
		return backend.TxnResult{}, nil
	}
	var puts []put
	var pairs []api.KVPair
	for i, w := range p.t.Writes {
		if !w.Delete {
			puts = append(puts, put{p.writes[i], w.Value, p.flags(i)})
			pairs = append(pairs, o.of(p.writes[i]))
		}
	}
	if len(puts) == 0 {
		r := backend.TxnResult{Revision: backend.Revision(o.of(p.writes[0]).ModifyIndex)}
		for _, w := range p.t.Writes {
			r.Entries = append(r.Entries, backend.Entry{Key: w.Key})
		}
		return r, nil
	}
	if err := p.s.unbind(ctx, puts, pairs); err != nil {
		return backend.TxnResult{}, err
	}
	r := backend.TxnResult{Entries: make([]backend.Entry, 0, len(p.t.Writes))}
	next := 0
	for _, w := range p.t.Writes {
		if w.Delete {
			r.Entries = append(r.Entries, backend.Entry{Key: w.Key})
			continue
		}
		pair := pairs[next]
		next++
		p.s.wrote(pair)
		r.Revision = max(r.Revision, backend.Revision(pair.ModifyIndex))
		r.Entries = append(r.Entries, written(w.Key, pair))
	}
	return r, nil
}
