package backend

import (
	"context"
	"iter"
	"time"
)

// Store is one key/value store, as its driver presents it.
//
// A driver embeds [Unimplemented], so that a method added to Store later does
// not break it: the new method answers errors.ErrUnsupported until the driver
// has its own. A wrapper embeds the Store that it wraps and so hides nothing.
type Store interface {
	// Get returns the entry at key, or ErrNotFound. A key that has expired
	// and was not reaped yet is not found.
	//
	// It MUST be one round trip wherever the store can do a read of the
	// asked-for consistency in one.
	Get(ctx context.Context, key string, o GetOptions) (Entry, error)

	// GetMany returns one Entry for each key, in the order of keys, the zero
	// Entry (Revision 0) for a key that is absent. It is not a snapshot
	// unless the store makes it one. keys may repeat.
	GetMany(ctx context.Context, keys []string, o GetOptions) ([]Entry, error)

	// Put writes value at key under o's condition and returns the new entry
	// without its Value. Entry.Created MAY be 0 where only a further round
	// trip would tell.
	//
	// Every Put that succeeds gives the key a revision above all that it
	// ever had, and makes an event, also where the value is the one that was
	// there (R10). Of two clients of this library that put at one revision
	// at most one succeeds (R11).
	//
	// Errors: ErrExists (Absent), ErrNotFound (Present), ErrConflict
	// (AtRevision; also when the key is gone), ErrTooLarge before anything
	// is sent, ErrUncertain when the request may have been applied.
	Put(ctx context.Context, key string, value []byte, o PutOptions) (Entry, error)

	// Delete removes key and leaves what lies below it. Errors: ErrNotFound
	// when there is no key (Always, Present), ErrConflict (AtRevision; also
	// when the key is gone), ErrUncertain.
	Delete(ctx context.Context, key string, o DeleteOptions) error

	// DeletePrefix removes every key strictly below prefix, the whole root
	// for "", with one event for each key that was visible. It returns how
	// many visible keys went, also beside an error. It is one atomic step
	// where [Capabilities].AtomicDeletePrefix says so.
	DeletePrefix(ctx context.Context, prefix string) (int64, error)

	// List yields the entries strictly below prefix in byte order of the
	// canonical key. Nothing below prefix is an empty sequence, no error.
	// The sequence ends after its first error. A caller that stops early
	// leaves nothing behind. No resource that a writer could wait for is
	// held while the caller's loop body runs.
	//
	// Values are fetched in pages; memory is bounded whatever the number of
	// keys on Lossless stores, and proportional to the names elsewhere
	// (R14). A key that is present throughout is yielded exactly once; where
	// [Capabilities].SnapshotList is set the sequence is one snapshot.
	List(ctx context.Context, prefix string, o ListOptions) iter.Seq2[Entry, error]

	// Watch opens an event stream over what List(prefix) covers or, with
	// o.Key, over the one key named prefix, which need not exist. When it
	// returns, the stream is established: every write that starts from then
	// on is seen. ctx bounds the call and the stream: when it ends, Next
	// returns its error and everything behind the stream is released.
	//
	// Errors: ErrHistoryLost for a resume point that the store no longer
	// reaches, ErrInvalid for one of another store, root or prefix,
	// errors.ErrUnsupported for any resume point where Resumable is unset.
	Watch(ctx context.Context, prefix string, o WatchOptions) (Watch, error)

	// Commit applies t: all of its writes if all checks hold, else nothing,
	// and no reader sees a part. A failed check is a *CheckError, that of a
	// lost lock before any other. Deleting an absent key is no error. Errors
	// besides: ErrTooLarge before anything is sent, errors.ErrUnsupported
	// where it cannot be atomic, ErrUncertain.
	Commit(ctx context.Context, t Txn) (TxnResult, error)

	// Register writes key bound to a lease that the caller keeps alive with
	// [Lease].Renew; when it does not, the key goes within the lease plus
	// TTLSlack, with a delete event. Errors: as for Put.
	Register(ctx context.Context, key string, value []byte, o RegisterOptions) (Lease, error)

	// Contend enters the queue of the lock called name and returns without
	// waiting for admission: see [Contender]. With o.Try it returns a
	// contender that is admitted, or ErrLocked with nothing left behind.
	//
	// When ctx ends in between, Contend returns at once, and whatever the
	// request may have left on the server is removed in the background
	// within two seconds while the store answers, else by the lease's end;
	// Close waits for it.
	Contend(ctx context.Context, name string, o ContendOptions) (Contender, error)

	// Holders yields who is at the head of the lock called name, the zero
	// Holder if nobody is, and then what changes (another head, another
	// value, nobody) until ctx ends, which is not an error of the sequence,
	// or the store closes: ErrClosed, at once, whether the server answers or
	// not. Changes that come fast MAY be merged; the last one always arrives.
	Holders(ctx context.Context, name string) iter.Seq2[Holder, error]

	// Adopt looks once over all keys below prefix, so that what other
	// programs wrote there unnoticed gets its revision and its event, and
	// returns how many were adopted. Where every foreign write makes an
	// event anyway there is nothing to do, and it returns 0.
	Adopt(ctx context.Context, prefix string) (int64, error)

	// Capabilities tells what this store can promise. It does no I/O, and
	// does not change from the first call on that has reached the server.
	Capabilities() Capabilities

	// Ping makes one round trip that needs no right outside the root.
	Ping(ctx context.Context) error

	// Close ends watches, leases and contenders, waits for every goroutine
	// of the driver's, and is idempotent. It closes the client only if the
	// driver opened it. Calls that come later, and those that Close
	// interrupts, return ErrClosed.
	Close() error

	mustEmbedUnimplemented()
}

// GetOptions bound how old a read may be.
type GetOptions struct {
	// Stale permits the store's cheapest read, which may miss the latest
	// writes. Without it a read is linearizable where LinearizableReads is
	// set.
	Stale bool
	// AtLeast makes the read wait until it reflects this revision; 0 is no
	// bound. A revision that the store has not reached is waited for until
	// ctx ends.
	AtLeast Revision
}

// MaxTTL is the longest TTL and the longest lease that a driver is asked for, a
// hundred years. Beyond, stores' own limits and the range of a Duration, which
// ends at 292 years, make an entry expire at once, or never be written.
const MaxTTL = 100 * 365 * 24 * time.Hour

// PutOptions are the terms of one write.
type PutOptions struct {
	If       Condition     // Always, Absent, Present or AtRevision
	Revision Revision      // with AtRevision, else 0
	TTL      time.Duration // at most MaxTTL; 0: the entry does not expire, and an older expiry is cleared
	KeepTTL  bool          // keep the entry's expiry as it is, which is none if a lease kept it; only with AtRevision, and without TTL
}

// DeleteOptions are the terms of one removal.
type DeleteOptions struct {
	If       Condition // Always, Present or AtRevision
	Revision Revision  // with AtRevision, else 0
}

// ListOptions select and page what List yields.
type ListOptions struct {
	GetOptions
	KeysOnly bool   // leave Value nil; Revision is set all the same
	Children bool   // only direct children: see Entry.IsDir
	Limit    int    // at most so many entries; 0: all
	After    string // start after this key (or directory, with its slash); "": at the start
	// At, if not nil, receives the revision of the snapshot before anything
	// is yielded, where SnapshotList and Lossless are set.
	At *Revision
}
