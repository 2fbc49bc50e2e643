package boltkv

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// Options are the settings of a Store. The zero value works.
type Options struct {
	// Root is the bucket of the keys and their values; "": "kv". Slashes
	// part the names of nested buckets.
	Root string
	// Meta is the bucket of the bookkeeping; "": the root's name and "=kv",
	// beside it. It must not lie in the root bucket or above it.
	Meta string
	// Logger is told what nobody asks about; nil: nothing is logged.
	Logger *slog.Logger
	// WatchBuffer bounds the changes that are kept in memory, in bytes, for
	// watches to read; 0: 4 MiB. The latest change is always kept.
	WatchBuffer int
	// History keeps changes in the file as well; nil: it does not.
	History *History
	// Limits in bytes; 0: a key of 32,760 (what bbolt takes), a value of 16
	// MiB, a transaction of 64 MiB. bbolt itself takes values up to 2 GiB,
	// but holds a transaction in memory.
	MaxKeyBytes, MaxValueBytes, MaxTxnBytes int
}

// Store is a backend.Store in a bbolt file. Its methods are safe for
// concurrent use. They must not be called inside a read-write transaction of
// the same database: they would wait for it.
type Store struct {
	backend.Unimplemented
	*engine
	session *embedded.Session
}

// New returns a store in a database that the caller opened, which it never
// closes. It does no I/O and cannot fail: options that contradict are the
// error of every call.
//
// The database may be used beside it, in other buckets, and in the root bucket
// too (see the package documentation). There must be one store for each root
// in each database: a second one is another client only if it was made by
// [Store.Peer]. Otherwise locks and watches would not know of each other, so
// the store that was there first ends with ErrClosed when the second one
// writes.
func New(db *bbolt.DB, o Options) *Store { return newStore(db, false, o) }

func newStore(db *bbolt.DB, owned bool, o Options) *Store {
	o.WatchBuffer = cmp.Or(o.WatchBuffer, 4<<20)
	o.History = o.History.withDefaults()
	e := &engine{db: db, owned: owned, o: o, log: o.Logger, id: newGeneration()}
	e.commits.wake, e.commits.stop = make(chan struct{}, 1), make(chan struct{})
	e.limits = embedded.Limits{
		Key:   min(cmp.Or(o.MaxKeyBytes, maxKey), maxKey),
		Value: min(cmp.Or(o.MaxValueBytes, 16<<20), bbolt.MaxValueSize),
		Txn:   cmp.Or(o.MaxTxnBytes, 64<<20),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.layout, e.bad = layoutOf(o.Root, o.Meta)
	e.alarm.Fire = e.reap
	return e.client()
}

// Peer returns another client of the same keys, as another process would be of
// a store with a server: it has its own watches, leases and contenders, and
// its own Close. Peer of a closed store returns a closed one.
func (s *Store) Peer() *Store {
	p := s.client()
	if s.session.Closed() {
		_ = p.Close()
	}
	return p
}

func (e *engine) client() *Store {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients++
	return &Store{engine: e, session: embedded.NewSession()}
}

// DB returns the database. It must not be closed while the store is used.
func (s *Store) DB() *bbolt.DB {
	s.commits.exposed.Store(true)
	return s.db
}

// Capabilities implements backend.Store.
func (s *Store) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:               "bolt",
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
		FairLock:           true,
		DurableFence:       true,
	}
}

// Ping implements backend.Store: it reads from the file.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.session.Usable(ctx); err != nil {
		return err
	}
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	v.release()
	return nil
}

// Contend implements backend.Store. The queue is in memory, the fencing token
// in the file.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	st, err := s.checked(ctx, name)
	if err != nil {
		return nil, err
	}
	return st.locks.Contend(ctx, s.session.Done(), name, o)
}

// checked is the state for an operation on key.
func (s *Store) checked(ctx context.Context, key string) (*state, error) {
	if err := s.limits.CheckKey(key); err != nil {
		return nil, err
	}
	if err := s.session.Usable(ctx); err != nil {
		return nil, err
	}
	if err := s.engine.usable(); err != nil {
		return nil, err
	}
	return s.load(ctx)
}

// Holders implements backend.Store.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		st, err := s.checked(ctx, name)
		if err != nil {
			if ctx.Err() == nil {
				yield(backend.Holder{}, err)
			}
			return
		}
		st.locks.Holders(ctx, s.session.Done(), name)(yield)
	}
}

// reserveTokens makes sure that no token up to upTo is given again after a
// restart.
func (e *engine) reserveTokens(ctx context.Context, upTo uint64) error {
	return e.write(ctx, nil, func(t *table) error {
		have, err := parseFence(t.meta.Get([]byte(fenceKey)))
		if err != nil {
			return &fault{err}
		}
		if have >= upTo {
			return nil
		}
		return t.write(t.meta.Put([]byte(fenceKey), binary.BigEndian.AppendUint64(nil, upTo)))
	})
}

func parseFence(b []byte) (uint64, error) {
	switch len(b) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(b), nil
	}
	return 0, fmt.Errorf("%w: a fencing token of %d bytes", backend.ErrCorrupt, len(b))
}

// Close implements backend.Store. It deletes the keys of leases that are held.
func (s *Store) Close() error {
	leases, first := s.session.Close()
	if !first {
		return nil
	}
	var err error
	if len(leases) > 0 {
		err = s.write(context.Background(), nil, func(t *table) error {
			for _, l := range leases {
				if err := releaseLease(t, l.Key(), l.ID()); err != nil && !errors.Is(err, backend.ErrLeaseLost) {
					return err
				}
			}
			return nil
		})
	}
	if st := s.loaded.Load(); st != nil {
		st.locks.End(s.session.Done())
		st.feed.End(s.session.Done(), backend.ErrClosed)
	}
	return cmp.Or(s.leave(), err)
}
