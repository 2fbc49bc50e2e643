// Package zookeeperkv stores keys in ZooKeeper 3.4 and newer, on servers in their default configuration, through
// github.com/go-zookeeper/zk.
//
// A key is a node and its value the node's data, byte for byte as zkCli shows it. The key a/b below the root /demo is the
// node /demo/a/b; what ZooKeeper refuses in a name is escaped (an emoji as "=u1F600-", the segment ".." as "=u2E-."). A
// node without data (null in Java, nil in Go) is a directory and no key: the store makes its parents so, and removes
// those that it empties. A node with empty data is a key with an empty value, and so is one made by zkCli's "create /a". Clients that
// give their directories data, such as Curator's creatingParentsIfNeeded, make keys of them.
//
// # Opening
//
// [Driver] opens URLs such as
//
//	zookeeper://alice:secret@zk1,zk2:2181,zk3/demo?session=15s
//
// and [New] takes a connection that the caller has made. Both have the same guarantees. With its own connection the
// store reads linearizably in one round trip, and learns of outages from the client's events; on the caller's, whose
// events go to the caller, it takes two, and looks for outages every 50 ms.
//
// # Guarantees
//
// A revision is the node's mzxid, which grows over the whole ensemble and is never used twice. Entry.Created is the
// czxid: of a key whose node was a directory before, or has had children since it was deleted, it is the directory's.
//
// Reads are preceded by a sync, and with Stale are not. ZooKeeper's sync does not ask a quorum: a read can be stale
// during the moments in which an old leader does not know yet that it is one. Writes are linearizable.
//
// Conditional writes detect every write by this library and every change by other programs but one: between the check
// and the commit, somebody who does not use this library deletes the node and makes it again, with as many sets as it
// had before (Capabilities.ForeignCAS is unset).
//
// A watch delivers the last state of each key and may merge what came before (Lossless is unset). After a reconnection
// it reads everything again and tells the differences. ZooKeeper's own watches fire once and cannot be taken back: up to
// two a node stay at the server after a watch was closed, until the node changes or the session ends.
//
// A TTL is kept by the clients' clocks, which may differ by Options.ClockSkew. A key is visible for its TTL and the skew,
// and is deleted by whichever client that watches, or writes with TTLs, comes first. If no client runs, the node stays
// until one does, although none of them sees it.
//
// A lock's place is bound to the session. When contact is lost for the session timeout the place has to be taken for
// lost, and Contender.Lost says so, even if the lease that was asked for is longer: a Driver opens a session as long as
// the lease for it, and a stock server grants 40 s at most.
//
// # Rights
//
// Below the root: read for reads, write and create for writes, delete for deletes (on the parent, as ZooKeeper has it).
// The bookkeeping at Root with "=kv" appended, or Options.Meta, needs all of them, and create in the directory where it
// lies, once. Without rights there plain reads, puts, lists and watches work, expiries are not seen, and conditional
// writes, deletes, transactions, TTLs, registrations and locks fail with ErrPermission. Options.ACL is what new nodes
// are made with; with a user in the URL only that user has access.
//
// docs/stores/zookeeper.md has the cost of each call and how each rule is kept.
package zookeeperkv
