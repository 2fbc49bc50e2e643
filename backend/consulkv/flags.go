package consulkv

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// Each of Consul's entries has 64 bits of flags that the server does not
// interpret. The Store keeps in them when an entry expires, and what a
// contender of a lock wants. Plain entries have none, so they look like
// anybody's.
//
//	bits 63–48  "kv"
//	bits 47–44  what the rest is
//	bits 43–0   expiry: milliseconds since 1970, until the year 2527
//	            contender: bit 43 shared, bits 31–0 slots
//	            lease: a number, so that each write changes something
const (
	flagsMagic = uint64('k')<<56 | uint64('v')<<48
	kindMask   = uint64(0xF) << 44
	kindExpiry = uint64(1) << 44
	kindPlace  = uint64(2) << 44
	kindNone   = uint64(3) << 44 // never outlives the transaction that writes it
	kindLease  = uint64(4) << 44
	restMask   = uint64(1)<<44 - 1
	sharedBit  = uint64(1) << 43

	scratch = flagsMagic | kindNone
)

func isKind(flags, kind uint64) bool { return flags&^restMask == flagsMagic|kind }

// expiryFlags returns the flags of an entry that expires ttl from now, rounded
// up to milliseconds; 0 if ttl is.
func expiryFlags(ttl time.Duration) uint64 {
	if ttl <= 0 {
		return 0
	}
	at := time.Now().Add(ttl + time.Millisecond - time.Nanosecond).UnixMilli()
	return flagsMagic | kindExpiry | uint64(at)&restMask
}

// expiryOf is when flags say that the entry expires, in milliseconds since
// 1970; 0 is never, which is also what the flags of other programs mean.
func expiryOf(flags uint64) int64 {
	if !isKind(flags, kindExpiry) {
		return 0
	}
	return int64(flags & restMask)
}

func expiresAt(flags uint64) time.Time {
	if ms := expiryOf(flags); ms != 0 {
		return time.UnixMilli(ms)
	}
	return time.Time{}
}

// expired reports whether the entry is to be treated as absent: its expiry lies
// back by more than clocks may differ.
func (s *Store) expired(flags uint64, now time.Time) bool {
	ms := expiryOf(flags)
	return ms != 0 && now.UnixMilli() >= ms+s.o.ClockSkew.Milliseconds()
}

// leaseFlags are new at each call.
func leaseFlags() uint64 { return flagsMagic | kindLease | rand.Uint64()&restMask }

func placeFlags(o backend.ContendOptions) uint64 {
	f := flagsMagic | kindPlace | uint64(uint32(max(o.Slots, 1)))
	if o.Shared {
		f |= sharedBit
	}
	return f
}

func placeOf(flags uint64) (p backend.Place, ok bool) {
	return backend.Place{Shared: flags&sharedBit != 0, Slots: int(uint32(flags))}, isKind(flags, kindPlace)
}

// fact is what is known of a key at one revision, and stays true: flags and
// session do not change without the revision.
type fact struct {
	key     uint64 // hash of the native name
	rev     uint64
	flags   uint64
	session string
}

// facts remembers what the Store has lately read or written, so that a write
// at a revision knows, without reading again, whether the key has expired,
// which expiry to keep, and which session it is bound to: the transaction
// cannot ask for these. A miss costs one read.
type facts struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots [1024]fact
}

func (f *facts) init() { f.seed = maphash.MakeSeed() }

func (f *facts) learn(name string, rev, flags uint64, session string) {
	h := maphash.String(f.seed, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots[h%uint64(len(f.slots))] = fact{h, rev, flags, session}
}

func (f *facts) find(name string, rev uint64) (fact, bool) {
	h := maphash.String(f.seed, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.slots[h%uint64(len(f.slots))]
	return got, got.key == h && got.rev == rev
}
