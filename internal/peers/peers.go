// Package peers gives tests clients of stores that live in the tests' own
// process: as with a server, the keys stay while clients come and go.
package peers

import (
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
)

// Store is a store that gives other clients of its keys.
type Store[S any] interface {
	backend.Store
	Peer() S
}

// Of returns what opens a client of the store on a root. The stores themselves
// are made by open, one for each root, and closed at the end of the test that
// first asked for a client. Clients are the caller's to close. The function is
// safe for concurrent use.
func Of[S Store[S]](open func(root string) S) func(t testing.TB, root string) S {
	var mu sync.Mutex
	roots := map[string]S{}
	return func(t testing.TB, root string) S {
		mu.Lock()
		defer mu.Unlock()
		s, ok := roots[root]
		if !ok {
			s = open(root)
			roots[root] = s
			t.Cleanup(func() {
				mu.Lock()
				delete(roots, root)
				mu.Unlock()
				if err := s.Close(); err != nil {
					t.Errorf("closing the store on %q: %v", root, err)
				}
			})
		}
		return s.Peer()
	}
}

// Stores is Of for harnesses, which know a store by its interface.
func Stores[S Store[S]](open func(root string) S) func(t testing.TB, root string) backend.Store {
	of := Of(open)
	return func(t testing.TB, root string) backend.Store { return of(t, root) }
}
