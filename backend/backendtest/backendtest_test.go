package backendtest_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/internal/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReference runs the suite on the reference store. Nothing else writes to
// memory, so a second client stands in for the other program.
func TestReference(t *testing.T) { backendtest.Run(t, memory()) }

func memory() backendtest.Harness {
	client := peers.Of(func(string) *memkv.Store { return memkv.New(memkv.Options{}) })
	return backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store { return client(t, root) },
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			s := client(t, root)
			t.Cleanup(func() { _ = s.Close() })
			return peer{s}
		},
	}
}

type peer struct{ s *memkv.Store }

func (p peer) Put(ctx context.Context, key string, value []byte) error {
	_, err := p.s.Put(ctx, key, value, backend.PutOptions{})
	return err
}

func (p peer) Get(ctx context.Context, key string) ([]byte, bool, error) {
	ent, err := p.s.Get(ctx, key, backend.GetOptions{})
	if errors.Is(err, backend.ErrNotFound) {
		return nil, false, nil
	}
	return ent.Value, err == nil, err
}

func (p peer) Delete(ctx context.Context, key string) error {
	return p.s.Delete(ctx, key, backend.DeleteOptions{})
}
