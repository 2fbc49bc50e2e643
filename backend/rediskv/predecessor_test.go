package rediskv_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// TestPredecessors goes through the defects of the libraries before this one, as they were found on real servers.
func TestPredecessors(t *testing.T) {
	for _, c := range []struct {
		defect string
		test   func(t *testing.T)
	}{
		{"compare-and-swap errors on text, and lets a stale write win on JSON", staleWriteWins},
		{"the default lock is lost at its first heartbeat, and Unlock then hangs", lockLostAtHeartbeat},
		{"a network error on create is reported as exists", networkErrorIsExists},
		{"a CAS with a TTL under a second never expires", shortTTLNeverExpires},
		{"deleting the last key of a tree makes no event", lastKeyMakesNoEvent},
		{"empty values vanish from List", emptyValuesVanish},
		{"DeleteTree(*) emptied the database", deleteTreeEmptiesDatabase},
		{"CONFIG SET in the constructor", configSetInConstructor},
		{"Cluster is unusable", clusterIsUnusable},
		{"foo lists and deletes foobar", prefixWithoutBound},
		{"an empty list is an error", emptyListIsError},
		{"ctx is ignored", contextIsIgnored},
	} {
		t.Run(c.defect, c.test)
	}
}

func staleWriteWins(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	for _, values := range [][3]string{{"text", "other text", "stale"}, {`{"a":1}`, `{"a":2}`, `{"a": 1 }`}, {"", "x", ""}} {
		first := put(t, s, "k", values[0], backend.PutOptions{})
		second := put(t, s, "k", values[1], backend.PutOptions{If: backend.AtRevision, Revision: first.Revision})
		_, err := s.Put(t.Context(), "k", []byte(values[2]), backend.PutOptions{If: backend.AtRevision, Revision: first.Revision})
		if !errors.Is(err, backend.ErrConflict) {
			t.Errorf("a stale write of %q: %v, want ErrConflict", values[2], err)
		}
		// Not even if the value is again what it was.
		put(t, s, "k", values[0], backend.PutOptions{If: backend.AtRevision, Revision: second.Revision})
		_, err = s.Put(t.Context(), "k", []byte(values[2]), backend.PutOptions{If: backend.AtRevision, Revision: first.Revision})
		if !errors.Is(err, backend.ErrConflict) {
			t.Errorf("a stale write of %q after the value came back: %v, want ErrConflict", values[2], err)
		}
	}
}

func lockLostAtHeartbeat(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := lock.Lock(ctx, kv.New(s), "l", lock.Lease(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.Done():
		t.Fatalf("lost: %v", held.Err())
	case <-time.After(2500 * time.Millisecond): // two leases and a half, so that it was renewed
	}
	if err := held.Unlock(ctx); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	if err := held.Unlock(ctx); err != nil {
		t.Errorf("a second Unlock: %v", err)
	}
}

func networkErrorIsExists(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	root := testserver.UniqueName(t)
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	s, err := open(t, "redis://"+proxy.Addr()+"/"+root, rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "other", "v", backend.PutOptions{})
	lost := proxy.LoseReply(func(request []byte) bool { return bytes.Contains(request, []byte(root+"/lost")) })
	_, err = s.Put(t.Context(), "lost", nil, backend.PutOptions{If: backend.Absent})
	if !errors.Is(err, backend.ErrUncertain) || errors.Is(err, backend.ErrExists) {
		t.Errorf("a create whose reply was lost: %v, want ErrUncertain", err)
	}
	<-lost
	proxy.Refuse(true)
	proxy.Cut()
	eventually(t, "the connections are gone", func() bool {
		_, err = s.Put(t.Context(), "refused", nil, backend.PutOptions{If: backend.Absent})
		if errors.Is(err, backend.ErrExists) {
			t.Fatalf("a create without a server: %v", err)
		}
		return errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, backend.ErrUncertain)
	})
}

func shortTTLNeverExpires(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	ctx := t.Context()
	store := kv.New(s)
	e, err := store.Put(ctx, "k", []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	// Under a second is refused, and one second is kept to under a condition too.
	if _, err := store.Update(ctx, "k", nil, e.Revision, kv.TTL(999*time.Millisecond)); !errors.Is(err, kv.ErrInvalid) {
		t.Errorf("a TTL of 999 ms: %v, want ErrInvalid", err)
	}
	start, stalls := time.Now(), pace.Watch(t)
	if _, err := store.Update(ctx, "k", nil, e.Revision, kv.TTL(time.Second)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key expires", func() bool {
		_, err := store.Get(ctx, "k")
		return errors.Is(err, kv.ErrNotFound)
	})
	if d := time.Since(start); d < time.Second || d > 3*time.Second+stalls.Since(start) {
		t.Errorf("it lived for %v", d)
	}
}

func lastKeyMakesNoEvent(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	w := watching(t, s, "tree", backend.WatchOptions{})
	put(t, s, "tree/only", "v", backend.PutOptions{})
	if err := s.Delete(t.Context(), "tree/only", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, w); ev.Kind != backend.Created {
		t.Errorf("event %+v", ev)
	}
	if ev := next(t, w); ev.Kind != backend.Deleted || ev.Key != "tree/only" {
		t.Errorf("event %+v", ev)
	}
}

func emptyValuesVanish(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	put(t, s, "tree/empty", "", backend.PutOptions{})
	put(t, s, "tree/full", "v", backend.PutOptions{})
	if got := listed(t, s, "tree"); len(got) != 2 || got[0] != "tree/empty" {
		t.Errorf("List has %q", got)
	}
}

func deleteTreeEmptiesDatabase(t *testing.T) {
	s, other := setup(t, rediskv.Options{})
	beside := testserver.UniqueName(t) + "/beside"
	if err := other.Set(t.Context(), beside, "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", backend.PutOptions{})
	put(t, s, "*/k", "v", backend.PutOptions{})
	if n, err := s.DeletePrefix(t.Context(), "*"); n != 1 || err != nil {
		t.Errorf("DeletePrefix(*) = %d, %v, want 1", n, err)
	}
	if got := listed(t, s, ""); len(got) != 1 || got[0] != "k" {
		t.Errorf("List has %q", got)
	}
	if other.Exists(t.Context(), beside).Val() != 1 {
		t.Error("what lies beside the root is gone")
	}
}

func configSetInConstructor(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{"user app on >secret ~* &* +@all -config"}})
	admin := newClient(t, srv)
	s, err := open(t, "redis://app:secret@"+srv.Addrs()[0]+"/app", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	w := watching(t, s, "", backend.WatchOptions{})
	put(t, s, "k", "v", backend.PutOptions{})
	next(t, w)
	if got := admin.ConfigGet(t.Context(), "notify-keyspace-events").Val()["notify-keyspace-events"]; got != "" {
		t.Errorf("the server's configuration is %q now", got)
	}
	for name, n := range commandCalls(t, admin) {
		if n > 0 && (name == "config" || name == "config|set") {
			t.Errorf("%s was used %d times", name, n)
		}
	}
}

func clusterIsUnusable(t *testing.T) {
	srv := startCluster(t)
	s := newStore(t, newClusterClient(t, srv), rediskv.Options{Root: "{app}"})
	w := watching(t, s, "", backend.WatchOptions{Snapshot: true})
	if ev := next(t, w); ev.Kind != backend.Synced {
		t.Errorf("event %+v", ev)
	}
	_, err := s.Commit(t.Context(), backend.Txn{Writes: []backend.Write{{Key: "a/b"}, {Key: "c/d"}}})
	if err != nil {
		t.Fatal(err)
	}
	next(t, w)
	next(t, w)
	if n, err := s.DeletePrefix(t.Context(), ""); n != 2 || err != nil {
		t.Errorf("DeletePrefix = %d, %v", n, err)
	}
}

func prefixWithoutBound(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	put(t, s, "foo/k", "v", backend.PutOptions{})
	put(t, s, "foobar/k", "v", backend.PutOptions{})
	if got := listed(t, s, "foo"); len(got) != 1 {
		t.Errorf("List has %q", got)
	}
	if n, err := s.DeletePrefix(t.Context(), "foo"); n != 1 || err != nil {
		t.Errorf("DeletePrefix = %d, %v", n, err)
	}
	if got := listed(t, s, ""); len(got) != 1 || got[0] != "foobar/k" {
		t.Errorf("List has %q", got)
	}
}

func emptyListIsError(t *testing.T) {
	s, _ := setup(t, rediskv.Options{})
	if got := listed(t, s, "nothing"); len(got) != 0 {
		t.Errorf("List has %q", got)
	}
}

func contextIsIgnored(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	var dialled atomic.Int64
	client := dialing(t, srv, &redis.Options{Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}})
	s := newStore(t, client, rediskv.Options{Root: "app"})
	put(t, s, "k", "v", backend.PutOptions{})
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Resume(); err != nil {
			t.Error(err)
		}
	}()
	before, calls := dialled.Load(), int64(0)
	for name, f := range map[string]func(context.Context) error{
		"Put":    func(ctx context.Context) error { _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); return err },
		"Get":    func(ctx context.Context) error { _, err := s.Get(ctx, "k", backend.GetOptions{}); return err },
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, "k", backend.DeleteOptions{}) },
		"DeletePrefix": func(ctx context.Context) error {
			_, err := s.DeletePrefix(ctx, "x")
			return err
		},
	} {
		pace.Best(t, 150*time.Millisecond, name, func() time.Duration {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			calls++
			start := time.Now()
			err := f(ctx)
			took := time.Since(start)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			return took
		})
	}
	if n := dialled.Load() - before; n > calls {
		t.Errorf("%d calls dialled %d times", calls, n)
	}
}

func listed(t *testing.T, s backend.Store, prefix string) (found []string) {
	t.Helper()
	for e, err := range s.List(t.Context(), prefix, backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, e.Key)
	}
	return found
}
