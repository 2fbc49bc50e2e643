// Package kvtest helps programs that use kv to test themselves: a store in
// memory that closes with the test, and faults that real stores produce once a
// year.
//
// The store keeps time by timers only, so that a test of a TTL runs in a
// testing/synctest bubble and waits for nothing:
//
//	synctest.Test(t, func(t *testing.T) {
//		s := kvtest.New(t)
//		s.Put(t.Context(), "session", id, kv.TTL(time.Hour))
//		time.Sleep(time.Hour) // at once
//		…
//	})
//
// It keeps every rule that any store keeps (lossless, resumable watches,
// snapshot lists, fair locks). A program that is meant for Consul or ZooKeeper
// too is better tested on those as well: what they promise less of is in
// [kv.Capabilities]. With [kv.Portable] the limits at least are theirs.
package kvtest

import (
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
)

// New returns an empty store in memory. It is closed when the test and all its
// subtests are over, and takes with it the watches, registrations and locks
// that the test did not end.
func New(t testing.TB, opts ...kv.Option) *kv.Store {
	t.Helper()
	s := kv.New(memkv.New(memkv.Options{}), opts...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("kvtest: closing the store: %v", err)
		}
	})
	return s
}
