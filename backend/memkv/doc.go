// Package memkv keeps keys in memory: the reference driver, and the store of
// unit tests.
//
// It keeps every rule of the contract to the letter, with no latency and no
// server: linearizable reads, snapshot lists, lossless and resumable watches,
// TTLs, leases, fair locks. What it does not do is outlive its [Store]: values,
// revisions and fencing tokens are gone with it, and it is never shared
// between processes.
//
// Time is measured by timers and the monotonic clock only, so that a test in a
// testing/synctest bubble skips over TTLs and leases. A Store that was made in
// a bubble is for use in it only.
package memkv
