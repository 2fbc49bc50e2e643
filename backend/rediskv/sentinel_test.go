package rediskv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestFailover: Sentinel makes a replica the primary, and the store goes on there. What had been replicated is there; a
// watch goes on or says that it cannot.
func TestFailover(t *testing.T) {
	ctx := t.Context()
	primary := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	host, port, err := net.SplitHostPort(primary.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	replica := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{fmt.Sprintf("replicaof %s %s", host, port)}})
	sentinel := startSentinel(t, host, port)

	s, err := open(t, "redis+sentinel://"+sentinel+"/app?master=m", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	before := put(t, s, "k", "1", backend.PutOptions{})
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	eventually(t, "the write is replicated", func() bool { return newClient(t, replica).Get(ctx, "app/k").Val() == "1" })
	eventually(t, "Sentinel knows the replica", func() bool {
		c := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
		defer c.Close()
		replicas, err := c.Replicas(ctx, "m").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok"
	})
	if err := primary.Kill(0); err != nil {
		t.Fatal(err)
	}
	var after backend.Entry
	eventually(t, "a write succeeds at the new primary", func() bool {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		after, err = s.Put(ctx, "k", []byte("2"), backend.PutOptions{If: backend.AtRevision, Revision: before.Revision})
		if errors.Is(err, backend.ErrConflict) {
			t.Fatal("the write before the failover is gone, though it was replicated")
		}
		return err == nil
	})
	if after.Revision <= before.Revision {
		t.Errorf("revision %d after %d", after.Revision, before.Revision)
	}
	if ev := next(t, w); ev.Kind != backend.Updated || string(ev.Value) != "2" || ev.Revision != after.Revision {
		t.Errorf("event %+v", ev)
	}
}

// startSentinel starts a Sentinel for one primary, and returns its address.
func startSentinel(t *testing.T, host, port string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, own, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %q\nsentinel monitor m %s %s 1\nsentinel down-after-milliseconds m 500\n"+
		"sentinel failover-timeout m 3000\n", own, dir, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := redis.NewSentinelClient(&redis.Options{Addr: addr})
	defer c.Close()
	eventually(t, "Sentinel serves", func() bool { return c.Ping(t.Context()).Err() == nil })
	return addr
}
