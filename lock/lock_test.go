package lock_test

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/lock/locktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocks(t *testing.T) {
	var mu sync.Mutex
	roots := map[string]*memkv.Store{}
	locktest.Run(t, locktest.Harness{
		Acquisitions: 1000,
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
