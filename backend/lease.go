package backend

import (
	"context"
	"time"
)

// RegisterOptions are the terms of a key that its owner keeps alive.
type RegisterOptions struct {
	TTL    time.Duration // how long the key outlives its owner's last renewal; raised to MinLease
	Absent bool          // only if there is no such key, else ErrExists
}

// Lease is a key that lives while it is renewed. Its methods are safe for
// concurrent use. A driver runs no renewal loop: package kv does.
type Lease interface {
	// Entry is the key as it was last written, its Value unset.
	Entry() Entry
	// TTL is the time that the store really gives, at least what was asked.
	TTL() time.Duration
	// Renew starts the TTL anew. It changes no revision and makes no event.
	// ErrLeaseLost is final: the lease ended, or the key was deleted or
	// written by somebody else. Any other error leaves the lease as it was.
	Renew(ctx context.Context) error
	// Set writes a new value under the same lease. ErrLeaseLost as in Renew,
	// ErrTooLarge as in Store.Put.
	Set(ctx context.Context, value []byte) (Entry, error)
	// Release deletes the key if it is still the lease's, and frees the
	// lease. It is idempotent; a lease that was lost is released already.
	Release(ctx context.Context) error
}

// ContendOptions say how a contender takes part in a lock's queue.
type ContendOptions struct {
	Lease  time.Duration // how long the place in the queue outlives its last renewal; raised to MinLease
	Try    bool          // give up with ErrLocked instead of queueing
	Shared bool          // may hold together with other shared contenders
	Slots  int           // may hold beside others that have slots, while fewer than Slots are ahead; 0 and 1: exclusive
	Value  []byte        // shown to observers; at most MaxValueBytes, which package lock sees to
}

// Contender is one place in the queue of a lock: bound to a lease, ordered by
// arrival where FairLock is set, and with a token. Locks, semaphores and
// elections are built on it by package lock, which also runs the renewals,
// from Contend on, while waiting and while holding. Methods are safe for
// concurrent use.
//
// The lease protects the store's other users: a contender that is not renewed
// loses its place within the lease plus TTLSlack.
type Contender interface {
	// Wait returns nil once the contender is admitted (see Admitted), at
	// once if it is. It wakes for as few changes as the store allows, and
	// returns ErrLockLost if the place is gone. The end of ctx ends this
	// call only; the place is kept until Release.
	Wait(ctx context.Context) error
	// Token is the fencing token. Among the contenders of one name tokens
	// grow in the order of admission, across crashes and restarts where
	// DurableFence is set. It is valid once Wait has returned nil.
	Token() uint64
	// Check is the condition that this contender still has its place, for
	// use in a transaction, which the store itself then refuses with
	// ErrLockLost when it has not.
	Check() Check
	// Lease is the time that the store really gives, at least what was asked.
	Lease() time.Duration
	// Renewed is when the last renewal that succeeded (or the request that
	// made the place) was sent, with its monotonic clock reading.
	Renewed() time.Time
	// Renew starts the lease anew. ErrLockLost is final; any other error
	// leaves things as they were.
	Renew(ctx context.Context) error
	// Set changes the value that observers see. ErrLockLost as in Renew.
	Set(ctx context.Context, value []byte) error
	// Lost is closed when the driver learns, by an event and without being
	// asked, that the place is gone although Release was not called.
	Lost() <-chan struct{}
	// Release gives the place up and wakes who may follow. It is idempotent;
	// a place that was lost is released already. When ctx ends first, the
	// driver goes on in the background, as for Contend.
	Release(ctx context.Context) error
}

// Holder is who holds a lock.
type Holder struct {
	Value []byte
	Token uint64 // 0: nobody holds
}

// Place is what the order of a queue shows of one contender.
type Place struct {
	Shared bool
	Slots  int
}

// Admitted reports whether the contender at index i of a queue, in order, may
// hold. If not, wait is the index of the contender whose leaving it has to
// watch for, or -1 if it is any of those ahead. It is the one rule of
// admission, so that all stores agree:
//
//   - exclusive: nobody is ahead; wait for the one directly ahead;
//   - shared: nobody but shared ones is ahead; wait for the last other one;
//   - slots: nobody but such with slots is ahead, and fewer than Slots; wait for
//     the last other one, or for any.
//
// So contenders of different kinds never hold together.
func Admitted(queue []Place, i int) (ok bool, wait int) {
	p := queue[i]
	switch {
	case p.Shared:
		for j := i - 1; j >= 0; j-- {
			if !queue[j].Shared {
				return false, j
			}
		}
		return true, 0
	case p.Slots > 1:
		for j := i - 1; j >= 0; j-- {
			if queue[j].Slots <= 1 {
				return false, j
			}
		}
		return i < p.Slots, -1
	default:
		return i == 0, i - 1
	}
}
