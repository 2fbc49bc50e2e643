package watch_test

import (
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch/watchtest"
)

func TestSuite(t *testing.T) {
	var mu sync.Mutex
	roots := map[string]*memkv.Store{}
	watchtest.Run(t, watchtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			mu.Lock()
			defer mu.Unlock()
			if roots[root] == nil {
				s := memkv.New(memkv.Options{}) // keeps the keys while clients come and go
				t.Cleanup(func() { s.Close() })
				roots[root] = s
			}
			return roots[root].Peer()
		},
	})
}
