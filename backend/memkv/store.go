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

// Store is a client of keys in memory. Its methods are safe for concurrent use.
type Store struct {
	backend.Unimplemented
	*memory
	session *embedded.Session
}

// memory is what the clients of one set of keys share.
type memory struct {
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
	clients  int
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

// firstRevision is that of the empty store, so that a snapshot of nothing has
// a revision too.
const firstRevision = 1

// New returns an empty store. It cannot fail.
func New(o Options) *Store {
	m := &memory{
		limits: embedded.Limits{
			Key:   cmp.Or(o.MaxKeyBytes, 32768),
			Value: cmp.Or(o.MaxValueBytes, 16<<20),
			Txn:   cmp.Or(o.MaxTxnBytes, 64<<20),
		},
		epoch: rand.Text(),
		start: time.Now(),
		feed:  embedded.NewFeed(firstRevision, cmp.Or(o.WatchBuffer, 4<<20)),
		locks: embedded.NewLocks(minLease, 0, nil),
		items: btree.NewG(degree, func(a, b item) bool { return a.key < b.key }),
		expiries: btree.NewG(degree, func(a, b expiry) bool {
			return a.deadline < b.deadline || a.deadline == b.deadline && a.key < b.key
		}),
	}
	m.revision = firstRevision
	m.alarm.Fire = m.reap
	return m.client()
}

// Peer returns another client of the same keys, as another process would be of
// a store with a server: it has its own watches, leases and contenders, and
// its own Close. The keys are there until the last client is closed. Peer of a
// closed store returns a closed one.
func (s *Store) Peer() *Store {
	p := s.client()
	if s.session.Closed() {
		_ = p.Close() // always nil
	}
	return p
}

func (m *memory) client() *Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients++
	return &Store{memory: m, session: embedded.NewSession()}
}

// now is the store's clock: it starts as the wall clock and then follows the
// monotonic one, so that no correction of the wall clock ends a TTL early.
func (m *memory) now() time.Time {
	return m.start.Round(0).Add(time.Since(m.start))
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
	return s.session.Usable(ctx)
}

// Contend implements backend.Store.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if err := s.limits.CheckKey(name); err != nil {
		return nil, err
	}
	return s.locks.Contend(ctx, s.session.Done(), name, o)
}

// Holders implements backend.Store.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return s.locks.Holders(ctx, s.session.Done(), name)
}

// Close implements backend.Store. It deletes the keys of leases that are held,
// and with the last client goes everything.
func (s *Store) Close() error {
	s.mu.Lock()
	leases, first := s.session.Close()
	if !first {
		s.mu.Unlock()
		return nil
	}
	_ = s.run(func(st *embedded.Step) error {
		for _, l := range leases {
			_, _ = st.Apply(embedded.Op{Owner: l.ID(), Writes: []backend.Write{{Key: l.Key(), Delete: true}}})
		}
		return nil // a lease that is lost needs no release, and memory does not fail
	})
	s.clients--
	last := s.clients == 0
	s.mu.Unlock()

	s.locks.End(s.session.Done())
	s.feed.End(s.session.Done(), backend.ErrClosed)
	if last {
		s.alarm.Close()
		s.locks.Wait()
	}
	return nil
}
