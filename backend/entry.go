package backend

import (
	"strings"
	"time"
)

// Revision counts the writes of one store. A later write has a greater
// revision, whatever its key; the writes of one transaction share one. A
// revision is never given twice to one key, not after delete and recreate and
// not after a restart (R10). 0 means none. Revisions of different stores do
// not compare.
type Revision uint64

// Entry is a key with its value and what the store knows of it.
type Entry struct {
	Key      string // canonical, relative to the driver's root
	Value    []byte
	Revision Revision  // of the last write
	Created  Revision  // of the write that made the key; 0 where the store does not tell
	Expires  time.Time // when a TTL ends, on the clock that TTLClock names; zero: never, or kept alive by a Lease
}

// IsDir reports whether e stands for a directory in a List of Children: some
// key lies deeper below this name. Its Key ends in a slash, which no key does,
// and it has neither value nor revision. A name that is a key and a directory
// is yielded as both.
func (e Entry) IsDir() bool { return strings.HasSuffix(e.Key, "/") }
