package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
)

// zooClient is the client itself.
func zooClient(b *testing.B, addr string) *zk.Conn {
	b.Helper()
	c, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogInfo(false))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		c.Close()
		for range events {
			// It is closed when the client's goroutines are gone.
		}
	})
	for e := range events {
		if e.State == zk.StateHasSession {
			break
		}
	}
	return c
}

// BenchmarkZooKeeper compares with the client itself: a linearizable get with a sync and a get, a list with what
// valkeyrie does, children and data of every node, one request after another.
func BenchmarkZooKeeper(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.ZooKeeper})
	c := zooClient(b, srv.Addrs()[0])
	name, ctx := testserver.UniqueName(b), context.Background()
	root := "/" + name
	u, err := backend.ParseURL("zookeeper://" + srv.Addrs()[0] + root)
	if err != nil {
		b.Fatal(err)
	}
	driver, err := zookeeperkv.Driver{}.Open(ctx, u)
	if err != nil {
		b.Fatal(err)
	}
	s := kv.New(driver)
	b.Cleanup(func() {
		_, err := s.DeletePrefix(ctx, "many")
		if err := errors.Join(err, s.Delete(ctx, "key"), c.Delete(root+"-raw", -1), s.Close(), driver.Close()); err != nil {
			b.Error(err)
		}
	})
	if _, err := c.Create(root+"-raw", benchValue, 0, zk.WorldACL(zk.PermAll)); err != nil {
		b.Fatal(err)
	}
	if err := putOf(s)(0); err != nil {
		b.Fatal(err)
	}
	rawGet := func(int) error { _, _, err := c.Get(root + "-raw"); return err }
	for i := range 20_000 { // the server compiles what it runs often
		if err := rawGet(i); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("get", func(b *testing.B) {
		against(b, func(i int) error {
			if _, err := c.Sync(root); err != nil {
				return err
			}
			return rawGet(i)
		}, getOf(s))
	})
	b.Run("get/stale", func(b *testing.B) { against(b, rawGet, getOf(s, kv.Stale())) })
	b.Run("put", func(b *testing.B) {
		against(b, func(int) error { _, err := c.Set(root+"-raw", benchValue, -1); return err }, putOf(s))
	})
	b.Run("list", func(b *testing.B) {
		for d := range 10 {
			tx := s.Txn()
			for i := range 200 {
				tx.Put(fmt.Sprintf("many/d%d/%03d", d, i), benchValue)
				if (i+1)%50 == 0 {
					if _, err := tx.Commit(ctx); err != nil {
						b.Fatal(err)
					}
					tx = s.Txn()
				}
			}
		}
		against(b, func(int) error {
			var n int
			err := valkeyrieList(c, root+"/many", &n)
			if err == nil && n != 2000 {
				err = fmt.Errorf("%d values", n)
			}
			return err
		}, listOf(s, 2000))
	})
}

// valkeyrieList asks every node for its children, leaves included, and for its data, one request after another.
func valkeyrieList(c *zk.Conn, path string, values *int) error {
	names, _, err := c.Children(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := valkeyrieList(c, path+"/"+name, values); err != nil {
			return err
		}
		data, _, err := c.Get(path + "/" + name)
		if err != nil {
			return err
		}
		if len(data) > 0 {
			*values++
		}
	}
	return nil
}
