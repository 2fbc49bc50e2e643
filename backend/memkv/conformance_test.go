package memkv_test

import (
	"testing"

	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/internal/peers"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Harness{
		Open: peers.Stores(func(string) *memkv.Store { return memkv.New(memkv.Options{}) }),
	})
}
