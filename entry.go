package kv

import (
	"strings"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/codec"
)

// Entry is a key with its value and what the store knows of it.
type Entry[T any] struct {
	Key      string // relative to the store or typed view that gave it
	Value    T
	Revision Revision  // of the last write
	Created  Revision  // of the write that made the key; 0 where the store does not tell
	Expires  time.Time // when a TTL ends; zero: never, or kept alive by a Registration
}

// IsDir reports whether e is a directory of a List with Children: its Key ends
// in a slash, and it has neither value nor revision.
func (e Entry[T]) IsDir() bool { return strings.HasSuffix(e.Key, "/") }

// Lookup is what GetMany found at one key.
type Lookup[T any] struct {
	Entry[T]
	Found bool
	Err   error // matches *codec.Error: the key is there, its value does not decode
}

// Event is one thing that a watch has to tell.
type Event[T any] struct {
	Kind Kind
	// Entry is the key after the change. A delete has the Key, the zero
	// Value, and the store's revision of the delete or 0. Synced, Resynced
	// and Progress have no key.
	Entry[T]
	// Prev is the key before the change, with WithPrev, for Updated and
	// Deleted, where the store still has it and it decodes.
	Prev *Entry[T]
	// Token resumes after this event: see Resume. Empty where the store
	// cannot, for Synced if the store was written to during the snapshot, and
	// for what a repair tells: the next event has one.
	Token Token
}

// reader turns the driver's entries into a view's: keys relative to the view,
// values decoded.
type reader[T any] struct {
	s *Store
	c codec.Codec[T] // nil for a Store, whose values are taken as they are
}

// entry converts e. The error is a *codec.Error; the entry is then complete
// but for its value.
func (r reader[T]) entry(e backend.Entry, withValue bool) (Entry[T], error) {
	out := Entry[T]{Key: r.s.relative(e.Key), Revision: e.Revision, Created: e.Created, Expires: e.Expires}
	if !withValue {
		return out, nil
	}
	if r.c == nil {
		// T is []byte: a Store. The assertion is on a pointer, and so
		// allocates nothing.
		*any(&out.Value).(*[]byte) = e.Value
		return out, nil
	}
	v, err := r.c.Decode(e.Value)
	if err != nil {
		return out, &codec.Error{Key: out.Key, Revision: uint64(e.Revision), Err: err}
	}
	out.Value = v
	return out, nil
}
