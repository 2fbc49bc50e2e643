// Package boltkv keeps keys in a bbolt file: the embedded default, for a
// program that has no server and wants its keys to outlive it.
//
// [New] takes a database that the program has open, and shares it; [Driver]
// opens a file of its own from a URL (bolt:///var/lib/app.db). Both give the
// whole contract: revisions, transactions, watches, TTLs, leases and locks, for
// all goroutines of one process. bbolt locks the file, so there is no second
// process; a program that has to share keys with others needs a server.
//
// # What is in the file
//
// The root bucket ([Options].Root) holds the keys as they are and the values as
// they are: what `bbolt get` prints is what was put. What the library knows
// besides is in buckets beside it ([Options].Meta and names that begin with it).
//
// Other code of the same program, or another program while this one does not
// run, may read and write the root bucket. What it writes is read at once, and
// gets its revision and its event when it is read, listed or written over, or by
// Adopt. It is noticed by a checksum, so writing the bytes that are there
// already is not. Names that are no keys (see [Store.ForeignNames]) and nested
// buckets are passed over. The buckets of the bookkeeping are for the library
// only.
//
// # Guarantees
//
//   - A write that has returned is on the disk: it is there after a kill or a
//     power failure, unless the database was opened with NoSync. Concurrent
//     writers share syncs.
//   - Reads are linearizable, writes to the bucket by others included. A List is
//     one snapshot, in pages of short transactions: it holds nothing that a
//     writer or Close could wait for. If more than 24 MiB of what it has still
//     to list are changed meanwhile, it ends with ErrHistoryLost. Its entries are
//     the caller's, and share allocations of up to 16 KiB: to keep one of many for
//     long, clone its key and value.
//   - Watches deliver every change in order. They resume in the same process as
//     far back as [Options].WatchBuffer reaches; with [Options].History also in
//     another one, as far back as that is told to keep.
//   - TTLs are kept to the millisecond, by the wall clock. A key whose time came
//     while the file was closed is gone when it is opened, with an event.
//   - Locks are fair, and exclude the clients of one Store and its peers. Fencing
//     tokens grow for ever.
//
// # Limits
//
// Keys are up to 32,760 bytes; values and transactions as the options say.
// A DeletePrefix is one transaction and holds its keys in memory. Methods must
// not be called inside a write transaction of the same database, which they
// would wait for (ctx ends that). Gets share a read transaction for up to 10 ms,
// for as long as closing the database may take longer.
//
// The file needs to be readable and writable; one that was opened read-only is
// read, and its writes are ErrPermission.
package boltkv
