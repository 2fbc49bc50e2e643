// Package watch has what applications build on the watches of package kv: a
// local replica of a prefix (Mirror), fan-out from it to many subscribers,
// indexes, one live value (Value), and adapters that gather events into batches
// (Batches) or put them on a channel (Chan).
//
// Everything takes a kv.Store or a kv.Typed, and inherits what their watches
// promise: no change is lost to a reconnect or a restart, and history that is
// gone is repaired by differences.
//
// A Mirror and a Value live until they are closed or their store is; the
// context that opened them bounds the opening only.
package watch
