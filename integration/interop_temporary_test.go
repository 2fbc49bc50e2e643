package integration

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/testserver"
)

// TestInteropTemporary has another program write a key that goes with its lease or session: the library reads it, makes no
// expiry of it, and reports its end as a delete.
func TestInteropTemporary(t *testing.T) {
	for _, store := range []testserver.Store{testserver.Etcd, testserver.Consul, testserver.ZooKeeper} {
		t.Run(string(store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store})
			root := testserver.UniqueName(t)
			s, err := openURL(t, drivers, storeURL(srv.Addrs()[0], store, root, testserver.Credentials{}, nil))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			w, err := s.Watch(ctx, "", kv.FromSnapshot(), kv.WithPrev())
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			end := temporary(t, ctx, store, srv.Addrs()[0], root+"/here", "for now")
			ev := awaitKey(t, ctx, w, kv.Created, "here")
			if string(ev.Value) != "for now" || !ev.Expires.IsZero() {
				t.Errorf("created: %q, which expires at %v", ev.Value, ev.Expires)
			}
			if e, err := s.Get(ctx, "here"); err != nil || e.Revision != ev.Revision {
				t.Errorf("get: %+v, %v", e, err)
			}
			end()
			if ev := awaitKey(t, ctx, w, kv.Deleted, "here"); ev.Prev == nil || string(ev.Prev.Value) != "for now" {
				t.Errorf("deleted: before it %+v", ev.Prev)
			}
			if _, err := s.Get(ctx, "here"); !errors.Is(err, kv.ErrNotFound) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// temporary writes with the store's raw client what goes when end is called.
func temporary(t *testing.T, ctx context.Context, store testserver.Store, addr, name, value string) (end func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch store {
	case testserver.Etcd:
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 5 * time.Second})
		must(err)
		t.Cleanup(func() { c.Close() })
		lease, err := c.Grant(ctx, 60)
		must(err)
		_, err = c.Put(ctx, name, value, clientv3.WithLease(lease.ID))
		must(err)
		return func() { _, err := c.Revoke(ctx, lease.ID); must(err) }
	case testserver.Consul:
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		c, err := api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: transport}})
		must(err)
		id, _, err := c.Session().Create(&api.SessionEntry{Behavior: api.SessionBehaviorDelete, TTL: "60s"}, nil)
		must(err)
		ok, _, err := c.KV().Acquire(&api.KVPair{Key: name, Value: []byte(value), Session: id}, nil)
		must(err)
		if !ok {
			t.Fatal("the session did not get the key")
		}
		return func() { _, err := c.Session().Destroy(id, nil); must(err) }
	default:
		c := rawZooKeeper(t, addr)
		_, err := c.Create("/"+name[:len(name)-len("/here")], nil, 0, zk.WorldACL(zk.PermAll))
		must(err)
		_, err = c.Create("/"+name, []byte(value), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
		must(err)
		return c.Close
	}
}

// silence is a logger of go-zookeeper's.
type silence struct{}

func (silence) Printf(string, ...any) {}

func rawZooKeeper(t *testing.T, addr string) *zk.Conn {
	t.Helper()
	c, _, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogger(silence{}), zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestInteropZooKeeperBinary passes the bytes that zkCli has no way to write, through the raw client.
func TestInteropZooKeeperBinary(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.ZooKeeper})
	root := testserver.UniqueName(t)
	s, err := openURL(t, drivers, storeURL(srv.Addrs()[0], testserver.ZooKeeper, root, testserver.Credentials{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	c := rawZooKeeper(t, srv.Addrs()[0])
	for name, value := range blobs {
		if _, err := s.Put(t.Context(), "k", value); err != nil {
			t.Fatal(err)
		}
		got, stat, err := c.Get("/" + root + "/k")
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("%s: the client reads %.80q, %v", name, got, err)
			continue
		}
		turned := append([]byte{0xff}, value...)
		if _, err := c.Set("/"+root+"/k", turned, stat.Version); err != nil {
			t.Fatal(err)
		}
		if e, err := s.Get(t.Context(), "k"); err != nil || !bytes.Equal(e.Value, turned) {
			t.Errorf("%s: the library reads %.80q, %v", name, e.Value, err)
		}
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Error(err)
	}
}
