package boltkv

import (
	"bytes"
	"fmt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// table is the buckets of one write transaction as embedded.Table. It adopts
// what other programs did to a key before anything is done on top of it.
type table struct {
	buckets
	sides   recordWriter
	cache   *cache
	step    *embedded.Step
	alarm   *embedded.Alarm
	dirty   bool     // something was written
	touched []string // keys whose records were
}

// write notes that the transaction is worth a commit, and marks an error as
// one of the file.
func (t *table) write(err error) error {
	t.dirty = true
	if err != nil {
		return &fault{err}
	}
	return nil
}

// Get implements embedded.Table. The record is a copy.
func (t *table) Get(key string) (embedded.Record, bool, error) {
	k := readOnly(key)
	value := t.data.Get(k)
	if r, ok := t.cached(key); ok && value != nil && r.sum == checksum(value) {
		r.Value = bytes.Clone(value)
		return r.Record, true, nil
	}
	side := t.sides.get(k)
	if value == nil && side == nil {
		if t.data.Bucket(k) != nil {
			return embedded.Record{}, false, fmt.Errorf("%w: a nested bucket has the name of this key", backend.ErrInvalid)
		}
		return embedded.Record{}, false, nil
	}
	var r record
	if side != nil {
		var err error
		if r, err = parseRecord(side); err != nil {
			return embedded.Record{}, false, &fault{err}
		}
		if value != nil && r.sum == checksum(value) {
			r.Value = bytes.Clone(value)
			return r.Record, true, nil
		}
	}
	return t.adopt(key, value, r)
}

// cached is the record of key as it was before the transaction, if the cache
// has all of it and the transaction has not changed it.
func (t *table) cached(key string) (record, bool) {
	if t.cache == nil || t.sides.spilt {
		return record{}, false
	}
	if _, ok := t.sides.find(readOnly(key)); ok {
		return record{}, false
	}
	r, ok, _ := t.cache.get(key, int64(t.tx.ID())-1)
	return r, ok && r.Lease == 0
}

// adopt gives a revision and an event to what another program did: it wrote
// value where r is known of the key (the zero record: nothing), or removed the
// key (nil). What was there before is not known any more.
func (t *table) adopt(key string, value []byte, r record) (embedded.Record, bool, error) {
	rev, err := t.NextRevision()
	if err != nil {
		return embedded.Record{}, false, err
	}
	ch := embedded.Change{Kind: backend.Created, Key: key, PrevLost: true, Adopted: true}
	ch.Revision, ch.Created = rev, rev
	switch {
	case value == nil:
		ch.Kind, ch.Created = backend.Deleted, 0
	case r.Revision != 0:
		ch.Kind, ch.Created = backend.Updated, r.Created
	}
	ch.Prev = r.Record
	t.step.Commits = append(t.step.Commits, &embedded.Commit{Revision: rev, Changes: []embedded.Change{ch}})
	c := &t.step.Commits[len(t.step.Commits)-1].Changes[0]
	if value == nil {
		return embedded.Record{}, false, t.Remove(key, r.Record)
	}
	c.Value = bytes.Clone(value)
	return c.Record, true, t.set(key, c.Record, r.Record)
}

// Set implements embedded.Table.
func (t *table) Set(key string, r, old embedded.Record) error {
	if r.Revision != old.Revision { // else only the deadline is new
		if r.Value == nil {
			r.Value = []byte{} // bbolt takes nil for no value until the transaction is over
		}
		if err := t.data.Put(readOnly(key), r.Value); err != nil {
			return t.write(err)
		}
	}
	return t.set(key, r, old)
}

// set writes what stands beside the value.
func (t *table) set(key string, r, old embedded.Record) error {
	if r.Deadline != old.Deadline {
		if old.Deadline != 0 {
			if err := t.expiries().Delete(expiryKey(old.Deadline, key)); err != nil {
				return t.write(err)
			}
		}
		if r.Deadline != 0 {
			if err := t.expiries().Put(expiryKey(r.Deadline, key), []byte{}); err != nil {
				return t.write(err)
			}
			setAlarm(t.alarm, r.Deadline)
		}
	}
	side := record{Record: r, sum: checksum(r.Value)}.append(make([]byte, 0, maxRecord))
	t.touched = append(t.touched, key)
	return t.write(t.sides.put(key, side))
}

// Remove implements embedded.Table.
func (t *table) Remove(key string, old embedded.Record) error {
	k := readOnly(key)
	if t.data.Get(k) != nil { // it may be a foreign bucket by now
		if err := t.data.Delete(k); err != nil {
			return t.write(err)
		}
	}
	if old.Deadline != 0 {
		if err := t.expiries().Delete(expiryKey(old.Deadline, key)); err != nil {
			return t.write(err)
		}
	}
	t.touched = append(t.touched, key)
	return t.write(t.sides.put(key, nil))
}

// NextRevision implements embedded.Table.
func (t *table) NextRevision() (backend.Revision, error) {
	n, err := t.meta.NextSequence()
	return backend.Revision(n), t.write(err)
}

// reap removes at most limit keys whose time has come, and returns the deadline
// that follows (0: none). An entry of the index that the key's record does not
// agree with goes too: another program has written over the key.
func (t *table) reap(limit int) (next int64, err error) {
	now := t.step.Now.UnixMilli()
	var due [][]byte
	c := t.expiries().Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		deadline, _, err := parseExpiry(k)
		if err != nil {
			return 0, &fault{err}
		}
		if deadline > now || len(due) == limit {
			next = deadline
			break
		}
		due = append(due, bytes.Clone(k))
	}
	for _, k := range due {
		key := string(k[8:])
		r, ok, err := t.Get(key)
		if err == nil && ok && r.Expired(t.step.Now) {
			err = t.step.Reap(key, r)
		}
		if err == nil {
			err = t.write(t.expiries().Delete(k))
		}
		if err != nil {
			return 0, err
		}
	}
	return next, nil
}
