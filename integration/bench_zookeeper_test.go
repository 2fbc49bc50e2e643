package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
)

// BenchmarkZooKeeper compares with bare requests, one after the other: a get
// with a sync before it, which is what our default promises; a set of one node,
// which leaves the version to each node; a list that reads each directory's
// names and then each node. Ours has a session of its own, from its Driver: on
// the client's it would take a round trip more for a get, and a request a node.
func BenchmarkZooKeeper(b *testing.B) {
	addr := servers.Shared(b, testserver.Spec{Store: testserver.ZooKeeper}).Addrs()[0]
	c, _, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogger(noLog{}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	root, acl := "/"+testserver.UniqueName(b), zk.WorldACL(zk.PermAll)
	u, err := backend.ParseURL("zookeeper://" + addr + root)
	if err != nil {
		b.Fatal(err)
	}
	ours, err := zookeeperkv.Driver{}.Open(b.Context(), u)
	if err != nil {
		b.Fatal(err)
	}
	s := kv.New(ours)
	b.Cleanup(func() { s.Close() })
	dir := root + "-raw"
	for _, path := range []string{dir, dir + "/key", dir + "/cas"} {
		if _, err := c.Create(path, nil, 0, acl); err != nil {
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
			value, _, err := c.Get(dir + "/key")
			return value, err
		},
		stale: func() error { _, _, err := c.Get(dir + "/key"); return err },
		cas: func() error {
			stat, err := c.Set(dir+"/cas", benchValue, version)
			if err == nil {
				version = stat.Version
			}
			return err
		},
		list: func() (n int, err error) {
			if _, err := c.Sync(root); err != nil {
				return 0, err
			}
			dirs, _, err := c.Children(root + "/many")
			if err != nil {
				return 0, err
			}
			slices.Sort(dirs)
			for _, d := range dirs {
				names, _, err := c.Children(root + "/many/" + d)
				if err != nil {
					return 0, err
				}
				slices.Sort(names)
				for _, name := range names {
					if _, _, err := c.Get(root + "/many/" + d + "/" + name); err != nil {
						return 0, err
					}
					n++
				}
			}
			return n, nil
		},
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
