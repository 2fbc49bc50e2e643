package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/internal/testserver"
)

// BenchmarkEtcd compares with linearizable reads, puts that are one request,
// and a list that is one ordered answer. Ours is over the same connection.
func BenchmarkEtcd(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Etcd})
	c, err := clientv3.New(clientv3.Config{Endpoints: srv.Addrs(), DialTimeout: 5 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	root, ctx := testserver.UniqueName(b), context.Background()
	s := kv.New(etcdkv.New(c, etcdkv.Options{Root: root}))
	b.Cleanup(func() { s.Close() })
	key, value := root+"-raw/key", string(benchValue)
	rev := int64(0)
	raw := rawClient{
		dirs: 1, perDir: 10_000,
		put: func(value []byte) error { _, err := c.Put(ctx, key, string(value)); return err },
		get: func() ([]byte, error) {
			resp, err := c.Get(ctx, key)
			if err != nil {
				return nil, err
			}
			return resp.Kvs[0].Value, nil
		},
		stale: func() error { _, err := c.Get(ctx, key, clientv3.WithSerializable()); return err },
		cas: func() error {
			name := root + "-raw/cas"
			resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(name), "=", rev)).
				Then(clientv3.OpPut(name, value)).Else(clientv3.OpGet(name)).Commit()
			if err != nil {
				return err
			}
			if !resp.Succeeded {
				return errors.New("somebody else has written")
			}
			rev = resp.Header.Revision
			return nil
		},
		list: func() (int, error) {
			resp, err := c.Get(ctx, root+"/many/", clientv3.WithPrefix())
			if err != nil {
				return 0, err
			}
			return len(resp.Kvs), nil
		},
		watch: func(b *testing.B) func() error {
			ctx, cancel := context.WithCancel(ctx)
			b.Cleanup(cancel)
			ch := c.Watch(ctx, key, clientv3.WithCreatedNotify())
			<-ch
			return func() error { resp := <-ch; return resp.Err() }
		},
	}
	raw.compare(b, s)
	b.Run("put with a TTL", func(b *testing.B) {
		lease, err := c.Grant(ctx, 3600)
		if err != nil {
			b.Fatal(err)
		}
		against(b, func(int) error { _, err := c.Put(ctx, key, value, clientv3.WithLease(lease.ID)); return err },
			putOf(s, kv.TTL(time.Hour)))
	})
}
