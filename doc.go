// Package kv is one context-first API over etcd, Consul, ZooKeeper, Redis and
// bbolt. A program that is written against it behaves the same on each of
// them; where a store cannot do a thing, the call says so before anything is
// written, and [Capabilities] says so before the call.
//
// # Opening a store
//
// A store is opened on a native client, or by URL. There is no registry: a
// program compiles in the drivers that it imports, and each network store's is
// a module of its own.
//
//	s := kv.New(etcdkv.New(client, etcdkv.Options{Root: "shop"}))
//
//	drivers := kv.Drivers{etcdkv.Driver{TLS: conf}, boltkv.Driver{}}
//	s, err := drivers.Open(ctx, "etcd://h1:2379,h2:2379/shop")
//
// The root, "shop" here, is the driver's: native names begin with it. Below
// it, [Prefix] and [Store.Sub] make smaller scopes, and [NewTyped] gives a
// scope a type:
//
//	users := kv.NewTyped(s, codec.JSON[User](), "users")
//	e, err := users.Get(ctx, "ann") // shop/users/ann in etcdctl
//
// Values are stored as they are: no envelope, no header. What other programs
// write below the root is seen, and what this package writes can be read with
// the store's own tools.
//
// [Store.Close] ends watches, registrations and locks and waits for every
// goroutine behind them. Views made by Sub and NewTyped need no closing.
//
// # Keys
//
// A key is UTF-8 segments joined by slashes; leading, trailing and doubled
// slashes are removed. Every character but NUL is allowed on every store:
// what a store refuses is escaped, and only that. A prefix ends at a slash:
// "foo" covers "foo/bar", neither "foobar" nor "foo". A key can hold a value
// and have others below it.
//
// # Writing
//
// [Store.Put] writes whatever is there, [Store.Create] only where nothing is,
// [Store.Update] only over the revision that the caller has seen, and
// [Store.Delete] likewise with [IfRevision]. Every write that succeeds gives
// its key a new, higher [Revision], also where the value is the old one.
//
// [Store.Modify] is the loop around them that loses no update:
//
//	_, err := counters.Modify(ctx, "visits", func(e *kv.Entry[int]) error {
//		e.Value++
//		return nil
//	}, kv.Upsert())
//
// [Store.Txn] collects checks and writes under the keys of any view of the
// store, for one atomic [Txn.Commit]. For a single write there is [If]:
//
//	_, err := s.Create(ctx, "posts/7", post, kv.If(s.Present("users/ann")))
//
// # Reading
//
// Reads are linearizable where the store can do that
// (Capabilities.LinearizableReads); [Stale] asks for the cheap read instead,
// and [AtLeast] for one that is not older than a revision seen before.
// [Store.List] is an iterator in byte order of the keys. It streams, and
// leaving the loop early leaves nothing behind:
//
//	for e, err := range users.List(ctx, "") {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// # Watching
//
// [Store.Watch] returns once it is established: every write that starts
// afterwards is seen. With [FromSnapshot] it begins with what is there, with
// no gap and no repeat in between. It survives lost connections, restarts and
// leader changes; see [Watch] for what it delivers then.
//
//	w, err := users.Watch(ctx, "", kv.FromSnapshot())
//	…
//	for ev, err := range w.Events() { // leaving the loop closes w
//		…
//	}
//
// Always use both variables: an error comes where events come.
//
// # Time
//
// [TTL] lets an entry expire, on every store, from one second up: never
// before its time, and at latest Capabilities.TTLSlack after. For a key that
// lives as long as its process, [Store.Register] renews it and tells when it
// is lost.
//
// # Locks
//
// Package lock has locks, reader-writer locks, semaphores and elections. A
// held lock is a context that ends when it is lost, and a check that lets the
// store itself refuse what a former holder still writes:
//
//	err := lock.Do(ctx, s, "nightly", func(ctx context.Context, held *lock.Held) error {
//		_, err := s.Put(ctx, "report", data, kv.If(held.Check()))
//		return err
//	})
//
// # Contexts
//
// A context bounds the call, and the stream if the call returns one: a Watch
// ends with the context that it was opened with. Registrations and locks live
// on until they are released or the store closes. Every call returns within a
// tenth of a second of its context's end, whether the store's client honours
// contexts or not, and with an error that matches both the context's error
// and its cause. A nil context panics, at once and where it was given.
//
// # Errors
//
// Every error is an [*Error] with operation, store and key, and matches one
// of these with errors.Is, besides its cause:
//
//	ErrNotFound      there is no such key
//	ErrExists        Create, IfAbsent: there is one
//	ErrConflict      Update, IfRevision: another revision, or none
//	*CheckError      Commit, If: names the check that failed, and matches its reason
//	ErrInvalid       wrong options, a TTL that is too short, a malformed URL or token
//	ErrInvalidKey    empty, not UTF-8, NUL, or too long
//	ErrTooLarge      over the store's limit; nothing was sent
//	ErrUnavailable   the store did not answer; nothing was applied
//	ErrUncertain     a write was sent and its reply lost: it may have been applied
//	ErrPermission    the store refused the credentials or the operation
//	ErrHistoryLost   a watch cannot continue without a gap
//	ErrLeaseLost     a registered key is no longer kept alive
//	ErrLocked        a lock is held by somebody else
//	ErrLockLost      a lock is no longer held
//	ErrCorrupt       bookkeeping or a file that cannot be read
//	ErrNewerSchema   bookkeeping of a later version of this module
//	ErrClosed        the store, watch or registration was closed
//	ErrUnsupported   (package errors) the store cannot do that: see Capabilities
//	*codec.Error     a stored value does not decode; lists and watches go on
//
// ErrUncertain deserves a decision. The library repeats a write only where a
// second application cannot be told from the first; otherwise the caller
// reads and judges. No error shows a value, or a password of a URL.
//
// # What differs between stores
//
// docs/semantics.md in the repository states every guarantee by number, and
// what each store adds or lacks. In a program, [Store.Capabilities] tells.
//
// # Testing
//
// Package kvtest gives tests a store in memory and faults on order. It runs
// in testing/synctest, so that a TTL of an hour takes no time.
package kv
