package embedded

import (
	"bytes"
	"time"

	"github.com/polykv/kv/backend"
)

// Table is the state that a Step changes: one map in memory, or the buckets
// of one write transaction. An error of Get refuses the operation. An error of
// the other methods is one of the medium, and spoils the whole step; only the
// table knows, since a Step returns its errors as they are.
type Table interface {
	// Get returns the record at key, an expired one too.
	Get(key string) (Record, bool, error)
	// Set stores r at key. old is what Get returned for key (zero if absent);
	// its deadline leaves the index of expiries.
	Set(key string, r, old Record) error
	// Remove takes key out. old is what Get returned for it.
	Remove(key string, old Record) error
	// NextRevision counts one up, durably.
	NextRevision() (backend.Revision, error)
}

// Step applies writes to a Table, at one time, and collects the commits that
// they make. It is for one goroutine, which holds whatever lock or transaction
// makes the step atomic, and which calls Unpin once the commits are published.
type Step struct {
	Table   Table
	Locks   *Locks
	Now     time.Time
	Commits []*Commit
	// KeepPrev bounds the previous values, in bytes, that the commit of one
	// RemoveAll holds; 0: no bound.
	KeepPrev int

	pins []*contender
}

// Op is a transaction with what Register and leases need besides.
type Op struct {
	Checks []backend.Check
	Writes []backend.Write
	// Owner, if not 0, is the lease that every written key must still belong
	// to (else ErrLeaseLost), and that it stays bound to.
	Owner backend.Revision
	// Lease binds every written key to a new lease of its TTL.
	Lease bool
}

// DeleteOp is what backend.Store's Delete does.
func DeleteOp(key string, o backend.DeleteOptions) Op {
	if o.If == backend.Always {
		o.If = backend.Present
	}
	return Op{
		Checks: []backend.Check{{If: o.If, Key: key, Revision: o.Revision}},
		Writes: []backend.Write{{Key: key, Delete: true}},
	}
}

// RegisterOp is what backend.Store's Register does, with a lease of ttl.
func RegisterOp(key string, value []byte, ttl time.Duration, o backend.RegisterOptions) Op {
	op := Op{Writes: []backend.Write{{Key: key, Value: bytes.Clone(value), TTL: ttl}}, Lease: true}
	if o.Absent {
		op.Checks = []backend.Check{{If: backend.Absent, Key: key}}
	}
	return op
}

// get returns the live record at key. One that has expired is reaped first, in
// a commit of its own, so that what follows starts from an absent key and
// watchers see the delete before the recreation.
func (s *Step) get(key string) (Record, bool, error) {
	r, ok, err := s.Table.Get(key)
	if err != nil {
		return Record{}, false, err
	}
	if ok && r.Expired(s.Now) {
		return Record{}, false, s.Reap(key, r)
	}
	return r, ok, nil
}

// Reap removes the expired record r at key.
func (s *Step) Reap(key string, r Record) error {
	rev, err := s.Table.NextRevision()
	if err != nil {
		return err
	}
	if err := s.Table.Remove(key, r); err != nil {
		return err
	}
	s.Commits = append(s.Commits, &Commit{Revision: rev, Changes: []Change{deleted(key, rev, r)}})
	return nil
}

func deleted(key string, rev backend.Revision, prev Record) Change {
	return Change{Kind: backend.Deleted, Key: key, Record: Record{Revision: rev}, Prev: prev}
}

// Apply applies op, all of it or nothing. A check that does not hold is a
// *backend.CheckError.
func (s *Step) Apply(op Op) (backend.TxnResult, error) {
	for _, locks := range [...]bool{true, false} { // a lost lock is told before anything else
		for i, c := range op.Checks {
			if locks != (c.If == backend.LockHeld) {
				continue
			}
			why, err := s.check(c)
			if err != nil {
				return backend.TxnResult{}, err
			}
			if why != nil {
				return backend.TxnResult{}, &backend.CheckError{Index: i, Key: c.Key, Err: why}
			}
		}
	}
	prevs := make([]Record, len(op.Writes))
	writing := false
	for i, w := range op.Writes {
		prev, ok, err := s.get(w.Key)
		if err != nil {
			return backend.TxnResult{}, err
		}
		if op.Owner != 0 && (!ok || prev.Lease != op.Owner) {
			return backend.TxnResult{}, backend.ErrLeaseLost
		}
		prevs[i] = prev
		writing = writing || ok || !w.Delete
	}
	res := backend.TxnResult{}
	if len(op.Writes) > 0 {
		res.Entries = make([]backend.Entry, len(op.Writes))
	}
	for i, w := range op.Writes {
		res.Entries[i].Key = w.Key
	}
	if !writing {
		return res, nil
	}
	rev, err := s.Table.NextRevision()
	if err != nil {
		return backend.TxnResult{}, err
	}
	res.Revision = rev
	c := &Commit{Revision: rev, Changes: make([]Change, 0, len(op.Writes))}
	for i, w := range op.Writes {
		ch, err := s.write(op, w, rev, prevs[i])
		if err != nil {
			return backend.TxnResult{}, err
		}
		if ch.Kind == 0 {
			continue // a delete of nothing
		}
		c.Changes = append(c.Changes, ch)
		if !w.Delete {
			res.Entries[i] = ch.Entry(w.Key)
			res.Entries[i].Value = nil
		}
	}
	s.Commits = append(s.Commits, c)
	return res, nil
}

// write applies one write at rev over prev, the zero Record if there is none.
func (s *Step) write(op Op, w backend.Write, rev backend.Revision, prev Record) (Change, error) {
	if w.Delete {
		if prev.Revision == 0 {
			return Change{}, nil
		}
		return deleted(w.Key, rev, prev), s.Table.Remove(w.Key, prev)
	}
	r := Record{Value: w.Value, Revision: rev, Created: prev.Created, Deadline: Deadline(s.Now, w.TTL)}
	kind := backend.Updated
	if prev.Revision == 0 {
		kind, r.Created = backend.Created, rev
	}
	switch {
	case op.Lease:
		r.Lease = rev
	case op.Owner != 0:
		r.Lease, r.Deadline = prev.Lease, prev.Deadline
	case w.KeepTTL && prev.Lease == 0: // a lease's is none: its owner has lost the key
		r.Deadline = prev.Deadline
	}
	return Change{Kind: kind, Key: w.Key, Record: r, Prev: prev}, s.Table.Set(w.Key, r, prev)
}

// check returns why c does not hold, or nil.
func (s *Step) check(c backend.Check) (why, err error) {
	if c.If == backend.LockHeld {
		p := s.Locks.pin(c, time.Now()) // not Now, which may be of another clock
		if p == nil {
			return c.If.Failed(), nil
		}
		s.pins = append(s.pins, p)
		return nil, nil
	}
	r, ok, err := s.get(c.Key)
	if err != nil {
		return nil, err
	}
	holds := true
	switch c.If {
	case backend.Absent:
		holds = !ok
	case backend.Present:
		holds = ok
	case backend.AtRevision:
		holds = ok && r.Revision == c.Revision
	}
	if !holds {
		return c.If.Failed(), nil
	}
	return nil, nil
}

// Renew starts the TTL of key anew if it still belongs to lease owner, without
// a revision and without an event.
func (s *Step) Renew(key string, owner backend.Revision, ttl time.Duration) error {
	r, ok, err := s.get(key)
	if err != nil {
		return err
	}
	if !ok || r.Lease != owner {
		return backend.ErrLeaseLost
	}
	old := r
	r.Deadline = Deadline(s.Now, ttl)
	if err := s.Table.Set(key, r, old); err != nil {
		return err
	}
	return nil
}

// RemoveAll removes the given keys, all of them present, in one commit.
// Expired ones go in commits of their own and do not count.
func (s *Step) RemoveAll(keys []string) (int64, error) {
	c, kept := &Commit{}, 0
	for _, key := range keys {
		r, ok, err := s.get(key)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		ch := deleted(key, 0, r)
		if kept += len(r.Value); s.KeepPrev > 0 && kept > s.KeepPrev {
			ch.Prev.Value, ch.PrevLost = nil, true
		}
		c.Changes = append(c.Changes, ch)
	}
	if len(c.Changes) == 0 {
		return 0, nil
	}
	rev, err := s.Table.NextRevision()
	if err != nil {
		return 0, err
	}
	c.Revision = rev
	for i := range c.Changes {
		ch := &c.Changes[i]
		ch.Revision = rev
		if err := s.Table.Remove(ch.Key, ch.Prev); err != nil {
			return 0, err
		}
	}
	s.Commits = append(s.Commits, c)
	return int64(len(c.Changes)), nil
}

// Unpin lets go of the locks that checks of this step relied on.
func (s *Step) Unpin() {
	for _, c := range s.pins {
		s.Locks.unpin(c)
	}
	s.pins = nil
}
