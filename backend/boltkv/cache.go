package boltkv

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv/backend"
)

// cache has the records of keys that were read or written lately, so that a
// Get searches one tree of the file, not two. Values are always read from the
// file. It is a table of sets of four records each, in which a key is known by
// a seeded hash of 64 bits, and by the checksum of its value, which has to fit
// the one that was read.
//
// It agrees with every view although no lock stands between readers and who
// commits. Transactions are numbered, and a view sees those up to its own
// number.
//
//   - Before transaction T can be seen, the sets of all keys that it changes
//     forget them, and raise their barrier to T.
//   - A record was valid in a transaction F. Views from F on use it: had a later
//     transaction that they see changed the key, it would not be there.
//   - A reader with view V that did not find its key puts what it read into the
//     set only if that was not changed since it looked, and if V is not below
//     the barrier: the key may have been changed after V.
//
// Each set is guarded by a sequence lock: its number is odd while somebody
// writes, and a reader that saw it change has seen nothing. All words are
// atomic, which on common machines makes reading them no dearer.
type cache struct {
	once  sync.Once
	table atomic.Pointer[cacheTable]
}

// cacheSets times 256 bytes are 2 MiB, which the first Get allocates.
const (
	cacheSets = 1 << 13
	cacheWays = 4
)

type cacheTable struct {
	seed maphash.Seed
	base int64 // a barrier for all sets
	sets []cacheSet
}

type cacheSet struct {
	seq     atomic.Uint64
	barrier atomic.Int64
	hashes  [cacheWays]atomic.Uint64 // of keys, 0: empty; in one cache line with the above
	ways    [cacheWays]cacheWay
	_       [6]uint64
}

type cacheWay struct {
	from     atomic.Int64
	revision atomic.Uint64
	created  atomic.Uint64
	deadline atomic.Int64  // negative for one of a lease
	sum      atomic.Uint32 // of the value
}

func newCacheTable(base int64) *cacheTable {
	return &cacheTable{seed: maphash.MakeSeed(), base: base, sets: make([]cacheSet, cacheSets)}
}

func (c *cache) init() *cacheTable {
	c.once.Do(func() { c.table.Store(newCacheTable(math.MinInt64)) })
	return c.table.Load()
}

// lookup is how far a reader has got with a key.
type lookup struct {
	table *cacheTable
	set   *cacheSet
	hash  uint64
	seq   uint64 // of set as it was looked at
}

func (t *cacheTable) find(key string) (set *cacheSet, hash uint64) {
	hash = max(maphash.String(t.seed, key), 1)
	return &t.sets[hash%cacheSets], hash
}

// get looks for the record of key as the view of number id has it. Its Lease
// is not told, only, by 1, that there is one.
func (c *cache) get(key string, id int64) (r record, ok bool, l lookup) {
	l.table = c.table.Load()
	if l.table == nil {
		l.table = c.init()
	}
	l.set, l.hash = l.table.find(key)
	l.seq = l.set.seq.Load()
	for i := range l.set.hashes {
		if l.set.hashes[i].Load() != l.hash {
			continue
		}
		w := &l.set.ways[i]
		if w.from.Load() > id {
			break
		}
		r.Revision = backend.Revision(w.revision.Load())
		r.Created = backend.Revision(w.created.Load())
		r.sum = w.sum.Load()
		if r.Deadline = w.deadline.Load(); r.Deadline < 0 {
			r.Deadline, r.Lease = -r.Deadline, 1
		}
		ok = l.seq%2 == 0 && l.set.seq.Load() == l.seq
		break
	}
	return r, ok, l
}

// put adds what the view of number id says of a key that was not found.
func (l lookup) put(id int64, r record) {
	if l.seq%2 != 0 || !l.set.seq.CompareAndSwap(l.seq, l.seq+1) {
		return
	}
	if id >= l.table.base && id >= l.set.barrier.Load() {
		l.set.store(l.hash, id, r)
	}
	l.set.seq.Store(l.seq + 2)
}

// lock is for who commits. Readers hold the lock for some nanoseconds only.
func (s *cacheSet) lock() (seq uint64) {
	for {
		if seq = s.seq.Load(); seq%2 == 0 && s.seq.CompareAndSwap(seq, seq+1) {
			return seq
		}
	}
}

// store puts a record where the key is, or where nothing is, or over one that
// the number of the lock picks.
func (s *cacheSet) store(hash uint64, from int64, r record) {
	at := int(s.seq.Load() / 2 % cacheWays)
	for i := range s.hashes {
		h := s.hashes[i].Load()
		if h == 0 {
			at = i
		}
		if h == hash {
			at = i
			break
		}
	}
	s.hashes[at].Store(hash)
	w := &s.ways[at]
	w.from.Store(from)
	w.revision.Store(uint64(r.Revision))
	w.created.Store(uint64(r.Created))
	w.sum.Store(r.sum)
	if r.Lease != 0 {
		r.Deadline = -r.Deadline
	}
	w.deadline.Store(r.Deadline)
}

// written is what a transaction changes.
type written struct {
	id    int64
	keys  []string
	table *cacheTable
}

// begin makes the cache forget keys, before transaction id can be seen.
func (c *cache) begin(id int64, keys []string) written {
	w := written{id: id, keys: keys, table: c.table.Load()}
	if w.table == nil {
		w.table = c.init()
	}
	if len(keys) > cacheSets/4 {
		w.table = newCacheTable(w.id)
		c.table.Store(w.table)
		return w
	}
	for _, key := range keys {
		s, hash := w.table.find(key)
		seq := s.lock()
		s.barrier.Store(w.id)
		for i := range s.hashes {
			if s.hashes[i].Load() == hash {
				s.hashes[i].Store(0)
			}
		}
		s.seq.Store(seq + 2)
	}
	return w
}

// end adds the new records, once the transaction can be seen. latest returns
// the record of a key, if it is at hand.
func (w written) end(latest func(key string) (record, bool)) {
	for _, key := range w.keys {
		if r, ok := latest(key); ok {
			s, hash := w.table.find(key)
			seq := s.lock()
			s.store(hash, w.id, r)
			s.seq.Store(seq + 2)
		}
	}
}
