// Package etcdkv stores keys in etcd, version 3.4 or later.
//
//	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialKeepAliveTime: 10 * time.Second})
//	store := kv.New(etcdkv.New(client, etcdkv.Options{Root: "shop"}))
//
// or from a URL:
//
//	etcd://[user:password@]host[:port][,host[:port]…]/root[?parameters]
//	etcd+tls://…
//
// The port is 2379 if none is given, the host 127.0.0.1 if there is none. The
// path is the root below which all keys lie: /shop is "shop", and //shop is
// "/shop", for trees that were written with a leading slash. Parameters:
//
//	meta               where the queues of locks lie; the root followed by "=kv"
//	token              an authentication token, in place of a user
//	dial_timeout       5s; see Options.DialTimeout
//	clock_skew         500ms; see Options.ClockSkew
//	watch_buffer       in bytes, 4 MiB; see Options.WatchBuffer
//	max_request_bytes  the server's --max-request-bytes, 1.5 MiB
//
// Client certificates and authorities go into [Driver].TLS.
//
// # What it promises
//
// Reads are linearizable, a list is one snapshot, a watch delivers every
// revision in order and can be resumed, transactions and DeletePrefix are one
// atomic step, locks are fair, and their tokens grow across crashes. Writes by
// other programs are seen, by conditions and watches alike.
//
// # Time to live
//
// etcd's leases count in whole seconds and start anew whenever the leader
// changes. Entries with a TTL are therefore bound to leases whose ID this
// package chooses: the expiry stands in it, by the clients' clocks. A read
// filters on the ID, which it gets anyway; a write compares it, on the server
// and within the same request. Leases are shared by entries that expire within
// 900 ms, so that a put with a TTL is one request as a rule. The IDs are below
// zero, as no ID is that a server chooses; for etcdctl write them behind a
// double dash: etcdctl lease timetolive -- -77e4950ed7bf9210.
//
// The clocks of all clients must agree within Options.ClockSkew. One that is
// further ahead hides entries too early, and after a change of the leader also
// ends their leases too early.
//
// # Rights
//
// With authentication on, the role needs readwrite on the prefix Root + "/" and,
// for locks, on the prefix Meta + "/": by default one grant for everything that
// begins with the root's name covers both. Writing takes the right to read as
// well, since every write is conditional. Who may not see the leases of others
// gets lists of keys without values at the price of lists with values.
//
// # Servers
//
// Watches need 3.4.25, 3.5.8 or later: earlier servers say that they have sent
// everything when they have not (etcd-io/etcd#15220), so that Watch.Sync could
// not be right. Watch refuses them with errors.ErrUnsupported; all else works
// there, locks included. Lists are streamed from 3.7 on and paged before.
package etcdkv
