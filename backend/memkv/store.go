package memkv

import (
	"cmp"
	"context"
	"crypto/rand"
	"iter"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// Options are the settings of a Store. The zero value works.
type Options struct {
	// WatchBuffer bounds the history of changes, in bytes, that watches read
	// and resume from; 0: 4 MiB. The latest change is always kept.
	WatchBuffer int
	// Limits in bytes; 0: a key of 32,768 as in bbolt, a value of 16 MiB, a
	// transaction of 64 MiB.
	MaxKeyBytes, MaxValueBytes, MaxTxnBytes int
}

const (
	name     = "memory"
	minTTL   = time.Second
	minLease = time.Second
)

// Store is a backend.Store in memory. Its methods are safe for concurrent use.
type Store struct {
	backend.Unimplemented

	limits embedded.Limits
	epoch  string
	start  time.Time // with its monotonic reading
	feed   *embedded.Feed
	locks  *embedded.Locks
	alarm  embedded.Alarm // goes off when the next key expires

	mu       sync.RWMutex
	items    *btree.BTreeG[item]
	expiries *btree.BTreeG[expiry]
	revision backend.Revision
	closed   bool
}

// item is a key in the tree. Records are immutable, so a clone of the tree is
// a snapshot.
type item struct {
	key    string
	record *embedded.Record
}

// expiry is a key in the order of deadlines.
type expiry struct {
	deadline int64
	key      string
}

const degree = 32 // of the trees

// New returns an empty store. It cannot fail.
func New(o Options) *Store {
	s := &Store{
		limits: embedded.Limits{
			Key:   cmp.Or(o.MaxKeyBytes, 32768),
			Value: cmp.Or(o.MaxValueBytes, 16<<20),
			Txn:   cmp.Or(o.MaxTxnBytes, 64<<20),
		},
		epoch: rand.Text(),
		start: time.Now(),
		feed:  embedded.NewFeed(0, cmp.Or(o.WatchBuffer, 4<<20)),
		locks: embedded.NewLocks(minLease, 0, nil),
		items: btree.NewG(degree, func(a, b item) bool { return a.key < b.key }),
		expiries: btree.NewG(degree, func(a, b expiry) bool {
			return a.deadline < b.deadline || a.deadline == b.deadline && a.key < b.key
		}),
	}
	s.alarm.Fire = s.reap
	return s
}

// now is the store's clock: it starts as the wall clock and then follows the
// monotonic one, so that no correction of the wall clock ends a TTL early.
func (s *Store) now() time.Time {
	return s.start.Round(0).Add(time.Since(s.start))
}

// Capabilities implements backend.Store.
func (s *Store) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:               name,
		MaxKeyBytes:        s.limits.Key,
		MaxValueBytes:      s.limits.Value,
		MaxTxnBytes:        s.limits.Txn,
		MinTTL:             minTTL,
		TTLSlack:           time.Second,
		TTLClock:           backend.ServerClock,
		MinLease:           minLease,
		LinearizableReads:  true,
		Lossless:           true,
		Resumable:          true,
		SnapshotList:       true,
		AtomicDeletePrefix: true,
		ForeignCAS:         true, // there is no other way to write
		ForeignEvents:      true,
		FairLock:           true,
	}
}

// Ping implements backend.Store.
func (s *Store) Ping(ctx context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.usable(ctx)
}

// usable is the error of a call that must not begin. The caller holds mu.
func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return backend.ErrClosed
	}
	return backend.ContextError(ctx)
}

// Contend implements backend.Store.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if err := s.limits.CheckKey(name); err != nil {
		return nil, err
	}
	return s.locks.Contend(ctx, name, o)
}

// Holders implements backend.Store.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return s.locks.Holders(ctx, name)
}

// Close implements backend.Store. It lets go of all keys.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.alarm.Close()
	s.locks.Close()
	s.feed.Close()
	s.mu.Lock()
	s.items.Clear(false)
	s.expiries.Clear(false)
	s.mu.Unlock()
	return nil
}
