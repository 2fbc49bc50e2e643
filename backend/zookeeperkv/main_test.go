package zookeeperkv

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) { goleak.VerifyTestMain(servers.M(m)) }

// shared returns the address of the server that the tests share.
func shared(t testing.TB) string {
	t.Helper()
	return servers.Shared(t, testserver.Spec{Store: testserver.ZooKeeper}).Addrs()[0]
}

// open opens a store through the Driver, below a root of the test's.
func open(t testing.TB, addr, root string, o Options) *Store {
	t.Helper()
	u, err := backend.ParseURL("zookeeper://" + addr + "/" + root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Driver{Options: o}.open(u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// raw returns a client's connection of the test's own.
func raw(t testing.TB, addr string) *zk.Conn {
	t.Helper()
	c, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogger(quiet{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		for range events {
		}
	})
	for e := range events {
		if e.State == zk.StateHasSession {
			break
		}
	}
	return c
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// foreign is another program that keeps data below a root.
type foreign struct {
	c    *zk.Conn
	root string
}

func (f foreign) path(key string) string { return f.root + "/" + keys.ZooKeeper().Encode(key) }

func (f foreign) Put(_ context.Context, key string, value []byte) error {
	return f.put(f.path(key), value)
}

func (f foreign) PutName(_ context.Context, name string, value []byte) error {
	err := f.put(f.root+"/"+name, value)
	if errors.Is(err, zk.ErrInvalidPath) || errors.Is(err, zk.ErrBadArguments) {
		return errors.ErrUnsupported
	}
	return err
}

func (f foreign) put(path string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	_, err := f.c.Set(path, value, -1)
	if !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	for _, dir := range ancestors(path) {
		if _, err := f.c.Create(dir, nil, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	_, err = f.c.Create(path, value, 0, zk.WorldACL(zk.PermAll))
	return err
}

func (f foreign) Get(_ context.Context, key string) ([]byte, bool, error) {
	data, _, err := f.c.Get(f.path(key))
	if errors.Is(err, zk.ErrNoNode) {
		return nil, false, nil
	}
	return data, data != nil, err
}

func (f foreign) Delete(_ context.Context, key string) error { return f.c.Delete(f.path(key), -1) }
