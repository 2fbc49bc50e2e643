// Package lock has locks, semaphores and leader elections on any kv.Store.
//
// Everything here is one primitive of the driver's, a queue of contenders that
// is bound to leases and ordered by arrival (backend.Contender), so the rules
// are the same on every store:
//
//   - Lock waits in order of arrival where Capabilities.FairLock is set, and
//     honours its context at every step.
//   - A lock that is held has a fencing token, which grows with every holder of
//     its name, and a check for writes: kv.If(held.Check()) makes the store
//     itself refuse the write once the lock is lost.
//   - The holder is told of a loss no later than a lease after its last renewal
//     that succeeded: the context of Held.Context ends with cause
//     kv.ErrLockLost. A process that was paused notices only when it runs
//     again, which is why the check exists. A machine that was suspended may
//     count none of that time: its holders are told by the next renewal, due
//     within a third of the lease.
//   - Locks live until they are released, lost, or the store closes. The
//     context of Lock bounds the waiting only.
//
// Most programs want Do and Election.Lead, with which nobody forgets to unlock
// or works on under the wrong context:
//
//	err := lock.Do(ctx, store, "jobs/nightly", func(ctx context.Context, held *lock.Held) error {
//		_, err := store.Put(ctx, "jobs/nightly/last", now, kv.If(held.Check()))
//		return err
//	})
//
// A lock's name is a key in form, relative to the store's prefix, but not in
// fact: it never shows in a List or a Watch, and a key of the same name is
// another thing. Locks, reader-writer locks, semaphores and elections of one
// name exclude each other. All users of a semaphore must agree on its size.
//
// What a store cannot promise is a capability: Redis loses locks with its data
// (DurableFence), a bbolt file excludes within one process only
// (CrossProcessLock), and Consul ends a crashed holder's lock after twice its
// session's TTL (MinLease).
package lock
