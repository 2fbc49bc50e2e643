package memkv_test

import (
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

func TestConformance(t *testing.T) {
	var mu sync.Mutex
	roots := map[string]*memkv.Store{}
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			mu.Lock()
			defer mu.Unlock()
			if roots[root] == nil {
				s := memkv.New(memkv.Options{})
				t.Cleanup(func() {
					mu.Lock()
					defer mu.Unlock()
					delete(roots, root)
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				roots[root] = s
			}
			return roots[root].Peer()
		},
	})
}
