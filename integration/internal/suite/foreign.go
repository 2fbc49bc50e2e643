package suite

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/internal/keys"
	"github.com/polykv/kv/internal/testserver"
)

// foreignTo returns another program's view of the keys below root, by the store's own client.
func foreignTo(t testing.TB, store testserver.Store, addr, root string) backendtest.Foreign {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	switch store {
	case testserver.Etcd:
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
		fail(err)
		t.Cleanup(func() { _ = c.Close() }) // says that its context has ended
		return etcdForeign{c, root}
	case testserver.Consul:
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		c, err := api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: transport}})
		fail(err)
		return consulForeign{c.KV(), root}
	case testserver.ZooKeeper:
		c, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogger(silent{}))
		fail(err)
		t.Cleanup(func() {
			c.Close()
			for range events { // until the client's goroutines have ended
			}
		})
		return zooForeign{c, "/" + root}
	default:
		c := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { fail(c.Close()) })
		return redisForeign{c, root}
	}
}

type silent struct{}

func (silent) Printf(string, ...any) {}

type etcdForeign struct {
	c    *clientv3.Client
	root string
}

func (f etcdForeign) Put(ctx context.Context, key string, value []byte) error {
	return f.PutName(ctx, key, value)
}

func (f etcdForeign) PutName(ctx context.Context, name string, value []byte) error {
	_, err := f.c.Put(ctx, f.root+"/"+name, string(value))
	return err
}

func (f etcdForeign) Get(ctx context.Context, key string) ([]byte, bool, error) {
	r, err := f.c.Get(ctx, f.root+"/"+key)
	if err != nil || len(r.Kvs) == 0 {
		return nil, false, err
	}
	return r.Kvs[0].Value, true, nil
}

func (f etcdForeign) Delete(ctx context.Context, key string) error {
	_, err := f.c.Delete(ctx, f.root+"/"+key)
	return err
}

type consulForeign struct {
	kv   *api.KV
	root string
}

func (f consulForeign) name(key string) string { return f.root + "/" + keys.Consul().Encode(key) }

func (f consulForeign) Put(ctx context.Context, key string, value []byte) error {
	_, err := f.kv.Put(&api.KVPair{Key: f.name(key), Value: value}, new(api.WriteOptions).WithContext(ctx))
	return err
}

func (f consulForeign) Get(ctx context.Context, key string) ([]byte, bool, error) {
	p, _, err := f.kv.Get(f.name(key), (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil || p == nil {
		return nil, false, err
	}
	return p.Value, true, nil
}

func (f consulForeign) Delete(ctx context.Context, key string) error {
	_, err := f.kv.Delete(f.name(key), new(api.WriteOptions).WithContext(ctx))
	return err
}

// The client of ZooKeeper takes no context.
type zooForeign struct {
	c    *zk.Conn
	root string
}

func (f zooForeign) path(key string) string { return f.root + "/" + keys.ZooKeeper().Encode(key) }

func (f zooForeign) Put(_ context.Context, key string, value []byte) error {
	path := f.path(key)
	if value == nil {
		value = []byte{} // without data it would be a directory
	}
	_, err := f.c.Set(path, value, -1)
	if !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	for i := 1; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		if _, err := f.c.Create(path[:i], nil, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	_, err = f.c.Create(path, value, 0, zk.WorldACL(zk.PermAll))
	return err
}

func (f zooForeign) Get(_ context.Context, key string) ([]byte, bool, error) {
	value, _, err := f.c.Get(f.path(key))
	if errors.Is(err, zk.ErrNoNode) {
		return nil, false, nil
	}
	return value, value != nil, err
}

func (f zooForeign) Delete(_ context.Context, key string) error { return f.c.Delete(f.path(key), -1) }

type redisForeign struct {
	c    *redis.Client
	root string
}

func (f redisForeign) Put(ctx context.Context, key string, value []byte) error {
	return f.c.Set(ctx, f.root+"/"+key, value, 0).Err()
}

func (f redisForeign) Get(ctx context.Context, key string) ([]byte, bool, error) {
	value, err := f.c.Get(ctx, f.root+"/"+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	return value, err == nil, err
}

func (f redisForeign) Delete(ctx context.Context, key string) error {
	return f.c.Del(ctx, f.root+"/"+key).Err()
}
