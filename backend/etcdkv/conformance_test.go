package etcdkv

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/internal/testserver"
)

func TestConformance(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Etcd})
	proxy := newProxy(t, srv.Addrs()[0])
	var sent requestCounter
	dial := func(t testing.TB, addr string) *clientv3.Client {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{addr}, Logger: zap.NewNop(),
			DialOptions: []grpc.DialOption{grpc.WithStatsHandler(&sent)},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			return New(dial(t, proxy.addr), Options{Root: root})
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			return foreign{dial(t, srv.Addrs()[0]), root}
		},
		// The harness's own: what waits for the server that Restart started.
		Leaks:    []goleak.Option{goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait")},
		Requests: sent.n.Load,
		Restart: func(t testing.TB) {
			if err := srv.Kill(0); err != nil {
				t.Fatal(err)
			}
			if err := srv.Restart(context.Background(), 0); err != nil {
				t.Fatal(err)
			}
		},
		Break: func(t testing.TB) { proxy.cut() },
		Pause: func(t testing.TB) func() {
			if err := srv.Pause(0); err != nil {
				t.Fatal(err)
			}
			return sync.OnceFunc(func() {
				if err := srv.Resume(0); err != nil {
					t.Error(err)
				}
			})
		},
	})
}

// foreign is another program with the keys below root.
type foreign struct {
	c    *clientv3.Client
	root string
}

func (f foreign) Put(ctx context.Context, key string, value []byte) error {
	return f.PutName(ctx, key, value)
}

func (f foreign) PutName(ctx context.Context, name string, value []byte) error {
	_, err := f.c.Put(ctx, f.root+"/"+name, string(value))
	return err
}

func (f foreign) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	resp, err := f.c.Get(ctx, f.root+"/"+key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, false, err
	}
	return resp.Kvs[0].Value, true, nil
}

func (f foreign) Delete(ctx context.Context, key string) error {
	_, err := f.c.Delete(ctx, f.root+"/"+key)
	return err
}

// requestCounter counts messages that clients send.
type requestCounter struct{ n atomic.Int64 }

func (c *requestCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (c *requestCounter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if out, ok := s.(*stats.OutPayload); ok && out.Client {
		c.n.Add(1)
	}
}
func (c *requestCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (c *requestCounter) HandleConn(context.Context, stats.ConnStats) {}
