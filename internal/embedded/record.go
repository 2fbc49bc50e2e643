package embedded

import (
	"bytes"
	"math"
	"time"

	"github.com/polykv/kv/backend"
)

// Record is what a store keeps for one key. Its Value is never changed once
// the record was stored, so that the table, the ring and the snapshots can
// share it; it is copied on the way out.
type Record struct {
	Value    []byte
	Revision backend.Revision
	Created  backend.Revision
	Deadline int64            // Unix milliseconds at which the record expires; 0: never
	Lease    backend.Revision // that of the Register whose lease keeps the record alive; 0: none
}

// Expired reports whether the record is gone at now, reaped or not.
func (r Record) Expired(now time.Time) bool {
	return r.Deadline != 0 && now.UnixMilli() >= r.Deadline
}

// Entry is the record as callers see it. It shares the record's value.
func (r Record) Entry(key string) backend.Entry {
	e := backend.Entry{Key: key, Value: r.Value, Revision: r.Revision, Created: r.Created}
	if r.Deadline != 0 && r.Lease == 0 {
		e.Expires = time.UnixMilli(r.Deadline)
	}
	return e
}

// Deadline is the first millisecond that is no earlier than now plus ttl
// (rounding is up, R28), and 0 for no TTL.
func Deadline(now time.Time, ttl time.Duration) int64 {
	if ttl <= 0 {
		return 0
	}
	if ttl > math.MaxInt64-time.Millisecond {
		ttl = math.MaxInt64 - time.Millisecond
	}
	return now.Add(ttl + time.Millisecond - 1).UnixMilli()
}

// Change is what one commit did to one key. Records are shared and must not
// be changed.
type Change struct {
	Kind backend.Kind // Created, Updated or Deleted
	Key  string
	Record
	Prev     Record // the record before; Revision 0 for Created
	PrevLost bool   // Prev has no value, because nobody kept it
	Adopted  bool   // another program had made the change before, unnoticed
}

// Commit is the changes of one revision, in the order in which they were made.
type Commit struct {
	Revision backend.Revision
	Changes  []Change
}

// overhead is what a change costs beside its key and values: the struct, a
// share of the slices around it and of the commit.
const overhead = 192

// Size is about how much memory c holds, in bytes.
func (c *Commit) Size() int {
	n := 0
	for i := range c.Changes {
		ch := &c.Changes[i]
		n += overhead + len(ch.Key) + len(ch.Value) + len(ch.Prev.Value)
	}
	return n
}

// clone copies a value on its way out, keeping a nil one nil.
func clone(v []byte) []byte { return bytes.Clone(v) }
