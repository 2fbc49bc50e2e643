package rediskv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// replicated is a primary, its replica, and a Sentinel that makes the one the other.
type replicated struct {
	primary, replica *testserver.Server
	link             *testserver.Proxy // from the replica to the primary
	sentinel         string
}

func startReplicated(t *testing.T) replicated {
	r := replicated{primary: testserver.Start(t, testserver.Spec{Store: testserver.Redis})}
	r.link = testserver.NewProxy(t, r.primary.Addrs()[0])
	through := func(addr string) string {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return host + " " + port
	}
	r.replica = testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{"replicaof " + through(r.link.Addr())}})
	client := newClient(t, r.replica)
	eventually(t, "the replica is in step", func() bool {
		return client.InfoMap(t.Context(), "replication").Item("Replication", "master_link_status") == "up"
	})
	r.sentinel = startSentinel(t, through(r.primary.Addrs()[0]))
	c := redis.NewSentinelClient(&redis.Options{Addr: r.sentinel})
	defer c.Close()
	eventually(t, "Sentinel knows the replica", func() bool {
		replicas, err := c.Replicas(t.Context(), "m").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["flags"] == "slave"
	})
	return r
}

func (r replicated) open(t *testing.T) *rediskv.Store {
	s, err := open(t, "redis+sentinel://"+r.sentinel+"/app?master=m", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFailover: Sentinel makes a replica the primary, and the store goes on there. What had been replicated is there:
// watches go on, and locks are held.
func TestFailover(t *testing.T) {
	ctx := t.Context()
	r := startReplicated(t)
	s := r.open(t)
	before := put(t, s, "k", "1", backend.PutOptions{})
	w := watching(t, s, "", backend.WatchOptions{})
	held, err := s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	inStep(t, r)
	if err := r.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	after := writeAtNewPrimary(t, s, before)
	if after.Revision <= before.Revision {
		t.Errorf("revision %d after %d", after.Revision, before.Revision)
	}
	if ev := next(t, w); ev.Kind != backend.Updated || string(ev.Value) != "2" || ev.Revision != after.Revision {
		t.Errorf("event %+v", ev)
	}
	if err := held.Renew(ctx); err != nil {
		t.Errorf("Renew: %v", err)
	}
	if _, err := s.Commit(ctx, backend.Txn{Checks: []backend.Check{held.Check()}}); err != nil {
		t.Errorf("the check of a lock that is held: %v", err)
	}
	if err := held.Release(ctx); err != nil {
		t.Error(err)
	}
	later, err := s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if later.Token() <= held.Token() {
		t.Errorf("token %d after %d", later.Token(), held.Token())
	}
	if err := later.Release(ctx); err != nil {
		t.Error(err)
	}
}

// TestFailoverThatLosesWrites: the new primary knows nothing of the last acknowledged writes, which Redis allows. Nothing
// pretends otherwise: streams end or list again, and what was checked against the loss fails.
func TestFailoverThatLosesWrites(t *testing.T) {
	ctx := t.Context()
	r := startReplicated(t)
	s := r.open(t)
	before := put(t, s, "k", "1", backend.PutOptions{})
	w := watching(t, s, "", backend.WatchOptions{})
	shared, err := kv.New(s).Watch(ctx, "", kv.FromSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	awaitKind(t, shared, kv.Synced)
	inStep(t, r)

	r.link.Stall()
	lost := put(t, s, "k", "lost", backend.PutOptions{})
	put(t, s, "only", "lost", backend.PutOptions{})
	held, err := s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	token := next(t, w).Token
	next(t, w)
	awaitKey(t, shared, "only", kv.Created)
	if err := r.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	r.link.Close()

	after := writeAtNewPrimary(t, s, before)
	if after.Revision <= lost.Revision {
		t.Errorf("revision %d after %d, which is lost", after.Revision, lost.Revision)
	}
	if ev, err := w.Next(ctx); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("the watch: %+v, %v, want ErrHistoryLost", ev, err)
	}
	if _, err := s.Watch(ctx, "", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("resuming: %v, want ErrHistoryLost", err)
	}
	awaitKind(t, shared, kv.Resynced)
	awaitKey(t, shared, "only", kv.Deleted)
	if _, err := s.Put(ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: lost.Revision}); !errors.Is(err, backend.ErrConflict) {
		t.Errorf("Put at the lost revision: %v, want ErrConflict", err)
	}
	var failed *backend.CheckError
	if _, err := s.Commit(ctx, backend.Txn{Checks: []backend.Check{held.Check()}}); !errors.As(err, &failed) {
		t.Errorf("the check of a lock that was lost: %v, want a CheckError", err)
	}
	if err := held.Renew(ctx); !errors.Is(err, backend.ErrLockLost) {
		t.Errorf("renewing a lock that was lost: %v, want ErrLockLost", err)
	}
}

// TestClusterFailover: the server of the root's slot fails, and its replica takes over.
func TestClusterFailover(t *testing.T) {
	ctx := t.Context()
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Cluster: true})
	s, err := open(t, "redis+cluster://"+srv.Addrs()[0]+","+srv.Addrs()[1]+"/{app}", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	before := put(t, s, "k", "1", backend.PutOptions{})
	w := watching(t, s, "", backend.WatchOptions{})
	held, err := s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	primary, err := s.Client().(*redis.ClusterClient).MasterForKey(ctx, "{app}=kv/head")
	if err != nil {
		t.Fatal(err)
	}
	if n := primary.Wait(ctx, 1, patience).Val(); n != 1 {
		t.Fatal("there is no replica")
	}
	node := slices.Index(srv.Addrs(), primary.Options().Addr)
	if node < 0 {
		t.Fatalf("%s is none of %v", primary.Options().Addr, srv.Addrs())
	}
	if err := srv.Kill(node); err != nil {
		t.Fatal(err)
	}
	after := writeAtNewPrimary(t, s, before)
	if ev := next(t, w); ev.Kind != backend.Updated || ev.Revision != after.Revision {
		t.Errorf("event %+v", ev)
	}
	if err := held.Renew(ctx); err != nil {
		t.Errorf("Renew: %v", err)
	}
	if err := held.Release(ctx); err != nil {
		t.Error(err)
	}
}

// writeAtNewPrimary repeats a conditional write until a new primary takes it. It may have been applied before and have
// said so to nobody.
func writeAtNewPrimary(t *testing.T, s *rediskv.Store, before backend.Entry) (after backend.Entry) {
	t.Helper()
	eventually(t, "a write succeeds at the new primary", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		e, err := s.Put(ctx, "k", []byte("2"), backend.PutOptions{If: backend.AtRevision, Revision: before.Revision})
		if errors.Is(err, backend.ErrConflict) {
			e, err = s.Get(ctx, "k", backend.GetOptions{})
			if err != nil || string(e.Value) != "2" {
				t.Fatalf("what was replicated is gone: %+v, %v", e, err)
			}
		}
		after = e
		return err == nil
	})
	return after
}

// inStep waits until the replica has all.
func inStep(t *testing.T, r replicated) {
	if n := newClient(t, r.primary).Wait(t.Context(), 1, patience).Val(); n != 1 {
		t.Fatal("the replica is not in step")
	}
}

func awaitKind(t *testing.T, w *kv.Watch[[]byte], kind kv.Kind) {
	t.Helper()
	await(t, w, func(ev kv.Event[[]byte]) bool { return ev.Kind == kind })
}

func awaitKey(t *testing.T, w *kv.Watch[[]byte], key string, kind kv.Kind) {
	t.Helper()
	await(t, w, func(ev kv.Event[[]byte]) bool { return ev.Key == key && ev.Kind == kind })
}

func await(t *testing.T, w *kv.Watch[[]byte], f func(kv.Event[[]byte]) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		if f(ev) {
			return
		}
	}
}

// startSentinel starts a Sentinel for one primary, "host port", and returns its address.
func startSentinel(t *testing.T, primary string, config ...string) string {
	addr := unusedAddr(t)
	_, own, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %q\nsentinel monitor m %s 1\nsentinel down-after-milliseconds m 500\n"+
		"sentinel failover-timeout m 3000\n", own, dir, primary)
	for _, line := range config {
		text += line + "\n"
	}
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
	eventually(t, "Sentinel serves", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}
