package watch_test

import (
	"testing"

	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/internal/peers"
	"github.com/polykv/kv/watch/watchtest"
)

func TestSuite(t *testing.T) {
	watchtest.Run(t, watchtest.Harness{
		Open: peers.Stores(func(string) *memkv.Store { return memkv.New(memkv.Options{}) }),
	})
}
