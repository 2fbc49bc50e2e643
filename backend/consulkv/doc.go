// Package consulkv stores keys in Consul's KV store.
//
// [New] takes the configuration of a Consul client, [Driver] opens URLs:
//
//	consul://[user:password@]host[:8500]/root
//	consul+tls://host[:8501]/root
//
// The host is one agent. User and password are for a proxy in front of it that
// asks for HTTP authentication. The path is the native root; Consul drops a
// leading slash. Parameters:
//
//	token         ACL token; better in Driver.Token or CONSUL_HTTP_TOKEN
//	dc            datacenter
//	namespace     of Consul Enterprise, and
//	partition     likewise
//	meta          native name of the bookkeeping; root=kv without it
//	dial_timeout  how long to wait for a connection, and for an answer; 5s
//	clock_skew    by how much clients' clocks may differ; 500ms
//	watch_buffer  bytes that a watch buffers for its reader; 4194304
//
// # What is kept where
//
// A value is the value of the native key, as "consul kv get" shows it. An
// expiry stands in the entry's flags, beside the value. Entries that other
// programs write are keys without an expiry, whatever their flags are, unless
// these happen to start with the bytes "kv". Names that are no keys ("dir/", a
// folder of the UI's; "a//b"; what is not UTF-8) are skipped, counted and logged
// once.
//
// Locks are the only bookkeeping: they lie below root=kv. Expired entries are
// deleted by whoever wrote or sees them, at their expiry plus the clock skew and
// up to half a second.
//
// # Guarantees
//
// Revisions are the cluster's Raft index, which Consul calls ModifyIndex. It
// grows for as long as the cluster lives. Reads are in consistent mode unless
// Stale is asked for. A List is a snapshot. A watch is not lossless: it tells the
// last state of every key, and may merge what lies before, and an expiry is an
// event by its own clock. A TTL is by the clients' clocks, from one second up;
// leases (Register, and places in a lock's queue) are sessions, 20 s at the least
// on a stock server. Conditional writes notice every write by other programs
// but one that puts what is there already, with the same flags: to Consul that is
// no write.
//
// # Limits
//
// Every write is a transaction, whose JSON may be 512 KiB: values up to 381 KiB.
// The agent takes 200 connections from one address; each watch, each lock that is
// held or waited for by this process, and each observer of a lock takes one, a
// lock that is waited for two. An agent holds an abandoned one for up to 20 s.
//
// # Rights
//
//	key_prefix "root"      read, and write to write
//	key_prefix "root=kv"   write, for locks
//	session_prefix ""      write, for locks and Register: on the node of the agent
//
// A rule for key_prefix "root" covers root=kv as well. Consul leaves entries that
// the token must not read out of lists and watches without a word.
package consulkv
