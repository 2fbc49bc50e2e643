package etcdkv

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }

// dial returns a client of the shared server, or of those at addrs.
func dial(t testing.TB, addrs ...string) *clientv3.Client {
	t.Helper()
	if len(addrs) == 0 {
		addrs = servers.Shared(t, testserver.Spec{Store: testserver.Etcd}).Addrs()
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: addrs, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// open returns a store with a root of its own on the shared server.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	c := dial(t)
	if o.Root == "" {
		o.Root = testserver.UniqueName(t)
	}
	s := New(c, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
