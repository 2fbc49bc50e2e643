package etcdkv

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"time"
)

// A lease of etcd counts in seconds, starts anew whenever the leader changes
// (a key of 40 s lived for 60 s after a kill), and a read shows its ID only. So
// the time at which entries expire is the lease's ID, which a client may choose:
//
//	bit 63      set. The IDs that servers choose are never negative.
//	bits 28–62  the expiry, in units of 100 ms since 2020 (until 3108)
//	bits 12–27  random, so that clients do not share leases
//	bits 0–11   a checksum of the above
//
// A read filters on it at no cost. And since later expiries are greater IDs, and
// no lease is 0, one comparison in a transaction says "there, and not expired".
const (
	expiryUnit  = 100 * time.Millisecond
	expiryEpoch = 1577836800 * time.Second // 2020-01-01 UTC, since 1970
	expiryShift = 28
	nonceShift  = 12
	maxExpiry   = 1<<35 - 1
	checkMask   = 1<<nonceShift - 1
)

// leaseID returns an ID, random besides, for the latest expiry that it can
// express and that is not after at.
func leaseID(at time.Time) int64 {
	id := math.MinInt64 | units(at)<<expiryShift | int64(rand.Uint32()&0xFFFF)<<nonceShift
	return id | checksum(id)
}

// The IDs of leases that are kept alive, by which a transaction can tell the keys
// of registrations from those that other programs have bound to leases of theirs.
// Of a server's own choices one in 128 lies there as well.
const (
	aliveFrom = int64('k') << 56
	aliveTo   = aliveFrom + 1<<56
)

func units(at time.Time) int64 {
	return min(max((at.UnixMilli()-expiryEpoch.Milliseconds())/expiryUnit.Milliseconds(), 0), maxExpiry)
}

func checksum(id int64) int64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id)>>nonceShift)
	return int64(crc32.ChecksumIEEE(b[:])) & checkMask
}

// expiry returns the time in a lease's ID, and false for a lease that is not
// of the kind: no lease, one kept alive, a foreign one.
func expiry(id int64) (time.Time, bool) {
	if id >= 0 || checksum(id) != id&checkMask {
		return time.Time{}, false
	}
	ms := (id >> expiryShift & maxExpiry) * expiryUnit.Milliseconds()
	return time.UnixMilli(expiryEpoch.Milliseconds() + ms), true
}

// expires is expiry for Entry.Expires.
func expires(id int64) time.Time {
	at, _ := expiry(id)
	return at
}

// horizon is the greatest lease ID whose entries are expired for this client.
// It lags by the skew, so that nobody whose clock is ahead hides an entry that
// is still alive for its writer.
func (s *Store) horizon() int64 {
	return math.MinInt64 | units(time.Now().Add(-s.o.ClockSkew))<<expiryShift | (1<<expiryShift - 1)
}

// expired reports whether a key with this lease is to be treated as absent.
func expired(lease, horizon int64) bool {
	if lease > horizon {
		return false
	}
	_, ok := expiry(lease)
	return ok
}
