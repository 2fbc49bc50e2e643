package integration

import (
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
)

// BenchmarkZooKeeper compares with bare requests, one after the other: a get
// with a sync before it, which is what our default promises; a set of one node,
// which leaves the version to each node; a list that asks each node for its
// children and its data, as valkeyrie does.
func BenchmarkZooKeeper(b *testing.B) {
	addr := servers.Shared(b, testserver.Spec{Store: testserver.ZooKeeper}).Addrs()[0]
	c := zooClient(b, addr)
	root, acl := "/"+testserver.UniqueName(b), zk.WorldACL(zk.PermAll)
	s, err := kv.Drivers{zookeeperkv.Driver{}}.Open(b.Context(), "zookeeper://"+addr+root)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	dir := root + "-raw"
	for _, path := range []string{dir, dir + "/key", dir + "/cas"} {
		if _, err := c.Create(path, nil, 0, acl); err != nil {
			b.Fatal(err)
		}
	}
	get := func() ([]byte, error) {
		value, _, err := c.Get(dir + "/key")
		return value, err
	}
	for range 20_000 { // the server compiles what it runs often
		if _, err := get(); err != nil {
			b.Fatal(err)
		}
	}
	version := int32(0)
	raw := rawClient{
		dirs: 10, perDir: 200,
		put: func(value []byte) error { _, err := c.Set(dir+"/key", value, -1); return err },
		get: func() ([]byte, error) {
			if _, err := c.Sync(dir); err != nil {
				return nil, err
			}
			return get()
		},
		stale: func() error { _, err := get(); return err },
		cas: func() error {
			stat, err := c.Set(dir+"/cas", benchValue, version)
			if err == nil {
				version = stat.Version
			}
			return err
		},
		list: func() (int, error) { return valkeyrieList(c, root+"/many") },
		watch: func(b *testing.B) func() error {
			// A watch fires once, so each event is a notice and a read that
			// sets the next one.
			_, _, fired, err := c.GetW(dir + "/key")
			if err != nil {
				b.Fatal(err)
			}
			return func() (err error) {
				if err := (<-fired).Err; err != nil {
					return err
				}
				_, _, fired, err = c.GetW(dir + "/key")
				return err
			}
		},
	}
	raw.compare(b, s)
}

// zooClient is the client itself.
func zooClient(b *testing.B, addr string) *zk.Conn {
	b.Helper()
	c, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogger(noLog{}))
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

// valkeyrieList asks every node for its children, leaves included, and for its
// data, one request after another, and counts the values.
func valkeyrieList(c *zk.Conn, path string) (values int, err error) {
	names, _, err := c.Children(path)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		below, err := valkeyrieList(c, path+"/"+name)
		if err != nil {
			return 0, err
		}
		data, _, err := c.Get(path + "/" + name)
		if err != nil {
			return 0, err
		}
		values += below
		if len(data) > 0 {
			values++
		}
	}
	return values, nil
}
