package etcdkv

import (
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// A server that restarts counts every lease anew. Watchers hear of the expiry
// in time all the same, since the reaper of any client revokes the lease.
func TestReaperAfterRestart(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Etcd})
	writer := New(dial(t, srv.Addrs()...), Options{Root: "r"})
	reader := New(dial(t, srv.Addrs()...), Options{Root: "r"})
	ctx := within(t, time.Minute)
	const ttl = 10 * time.Second
	e, err := writer.Put(ctx, "k", []byte("v"), backend.PutOptions{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	written, stalls := time.Now(), pace.Watch(t)
	if err := writer.Close(); err != nil { // only a watcher is left
		t.Fatal(err)
	}
	w, err := reader.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []backend.Kind{backend.Existing, backend.Synced} {
		if ev, err := w.Next(ctx); err != nil || ev.Kind != want {
			t.Fatalf("%+v, %v", ev, err)
		}
	}
	time.Sleep(time.Until(written.Add(ttl / 2))) // so that the lease is prolonged by as much
	if err := srv.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	due := max(ttl, time.Since(written)) // the restart may have taken longer
	ev, err := w.Next(ctx)
	age := time.Since(written)
	if err != nil || ev.Kind != backend.Deleted || ev.Key != "k" || ev.Revision <= e.Revision {
		t.Fatalf("%+v, %v", ev, err)
	}
	const lag = time.Second // of a busy machine; a lease that has begun anew ends four seconds later still
	if slack := reader.Capabilities().TTLSlack; age < ttl || age > due+slack+lag+stalls.Since(written) {
		t.Errorf("the delete came %v after the put of TTL %v (slack %v)", age, ttl, slack)
	}
	t.Logf("the delete came after %v", age)
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
}
