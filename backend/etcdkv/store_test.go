package etcdkv

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

func TestPutGetDelete(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 20*time.Second)
	e, err := s.Put(ctx, "a/b", []byte("1"), backend.PutOptions{If: backend.Absent})
	if err != nil || e.Revision == 0 || e.Created != e.Revision {
		t.Fatalf("create: %+v, %v", e, err)
	}
	got, err := s.Get(ctx, "a/b", backend.GetOptions{AtLeast: e.Revision, Stale: true})
	if err != nil || string(got.Value) != "1" || got.Revision != e.Revision || got.Key != "a/b" {
		t.Fatalf("get: %+v, %v", got, err)
	}
	for _, test := range []struct {
		o    backend.PutOptions
		key  string
		want error
	}{
		{backend.PutOptions{If: backend.Absent}, "a/b", backend.ErrExists},
		{backend.PutOptions{If: backend.Present}, "a", backend.ErrNotFound},
		{backend.PutOptions{If: backend.AtRevision, Revision: e.Revision - 1}, "a/b", backend.ErrConflict},
		{backend.PutOptions{If: backend.AtRevision, Revision: e.Revision}, "a", backend.ErrConflict},
		{backend.PutOptions{If: backend.AtRevision, Revision: e.Revision, TTL: time.Minute}, "a/b", nil},
		{backend.PutOptions{If: backend.Present}, "a/b", nil},
	} {
		if _, err := s.Put(ctx, test.key, nil, test.o); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if err := s.Delete(ctx, "a/b", backend.DeleteOptions{If: backend.AtRevision, Revision: e.Revision}); !errors.Is(err, backend.ErrConflict) {
		t.Error(err)
	}
	if err := s.Delete(ctx, "a/b", backend.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if err := s.Delete(ctx, "a/b", backend.DeleteOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Error(err)
	}
}

func TestListAndChildren(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 30*time.Second)
	names := []string{"a", "a-b", "a/x", "a/y/z", "b/1", "b/2", "c"}
	for i := range 700 {
		names = append(names, fmt.Sprintf("d/%04d", i))
	}
	slices.Sort(names)
	for chunk := range slices.Chunk(names, 50) {
		var t2 backend.Txn
		for _, n := range chunk {
			t2.Writes = append(t2.Writes, backend.Write{Key: n, Value: []byte(n)})
		}
		if _, err := s.Commit(ctx, t2); err != nil {
			t.Fatal(err)
		}
	}
	for _, streaming := range []int32{streamUnknown, streamMissing} {
		s.streaming.Store(streaming)
		list := func(prefix string, o backend.ListOptions) (got []string) {
			for e, err := range s.List(ctx, prefix, o) {
				if err != nil {
					t.Fatal(err)
				}
				if !o.KeysOnly && !e.IsDir() && string(e.Value) != e.Key {
					t.Errorf("%q has value %q", e.Key, e.Value)
				}
				got = append(got, e.Key)
			}
			return got
		}
		if got := list("", backend.ListOptions{}); !slices.Equal(got, names) {
			t.Errorf("all: %d", len(got))
		}
		if got, want := list("a", backend.ListOptions{}), []string{"a/x", "a/y/z"}; !slices.Equal(got, want) {
			t.Errorf("below a: %q", got)
		}
		if got, want := list("", backend.ListOptions{Children: true}), []string{"a", "a-b", "a/", "b/", "c", "d/"}; !slices.Equal(got, want) {
			t.Errorf("children: %q", got)
		}
		if got, want := list("", backend.ListOptions{Children: true, After: "a/", Limit: 2}), []string{"b/", "c"}; !slices.Equal(got, want) {
			t.Errorf("children after: %q", got)
		}
		if got := list("d", backend.ListOptions{Children: true}); len(got) != 700 {
			t.Errorf("children of d: %d", len(got))
		}
		if got, want := list("", backend.ListOptions{After: "b/2", Limit: 3, KeysOnly: true}), []string{"c", "d/0000", "d/0001"}; !slices.Equal(got, want) {
			t.Errorf("after: %q", got)
		}
	}
	if n, err := s.DeletePrefix(ctx, "d"); n != 700 || err != nil {
		t.Error(n, err)
	}
	if n, err := s.DeletePrefix(ctx, "d"); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestLeaseID(t *testing.T) {
	now := time.Now()
	id := leaseID(now)
	at, ok := expiry(id)
	if !ok || at.After(now) || now.Sub(at) >= expiryUnit {
		t.Fatalf("%v became %v", now, at)
	}
	if later := leaseID(now.Add(expiryUnit)); later <= id {
		t.Error("a later expiry has no greater ID")
	}
	if _, ok := expiry(id ^ 1<<nonceShift); ok {
		t.Error("the checksum does not cover the nonce")
	}
}

// An expired entry that the server has not reaped is absent to everything.
func TestExpiredIsAbsent(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 20*time.Second)
	// What a restart does to a lease: it outlives the time in its ID.
	bury := func(key string) {
		t.Helper()
		id := leaseID(time.Now().Add(-time.Hour))
		if _, err := call(ctx, s, reads, s.leases.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: 60}); err != nil {
			t.Fatal(err)
		}
		if _, err := call(ctx, s, writes, s.kv.Put, &pb.PutRequest{Key: []byte(s.space.Name(key)), Lease: id}); err != nil {
			t.Fatal(err)
		}
	}
	bury("k")
	if _, err := s.Get(ctx, "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Put(ctx, "k", nil, backend.PutOptions{If: backend.Present}); !errors.Is(err, backend.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Delete(ctx, "k", backend.DeleteOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Error(err)
	}
	for e, err := range s.List(ctx, "", backend.ListOptions{}) {
		t.Errorf("%v, %v", e, err)
	}
	if n, err := s.DeletePrefix(ctx, ""); n != 0 || err != nil {
		t.Error(n, err)
	}
	for _, cond := range []backend.Condition{backend.Always, backend.Absent} {
		bury("k")
		e, err := s.Put(ctx, "k", nil, backend.PutOptions{If: cond})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(ctx, "k", backend.GetOptions{}); err != nil || got.Created != e.Revision {
			t.Errorf("%v is not a creation: %+v, %v", cond, got, err)
		}
	}
	bury("k")
	bury("l")
	res, err := s.Commit(ctx, backend.Txn{
		Checks: []backend.Check{{If: backend.Absent, Key: "k"}},
		Writes: []backend.Write{{Key: "k"}, {Key: "l", TTL: time.Minute}},
	})
	if err != nil || res.Entries[0].Created != res.Revision {
		t.Errorf("%+v, %v", res, err)
	}
	// A foreign lease below zero is not one of ours, so the entry is alive.
	if _, err := call(ctx, s, reads, s.leases.LeaseGrant, &pb.LeaseGrantRequest{ID: -9223372036854775000, TTL: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := call(ctx, s, writes, s.kv.Put, &pb.PutRequest{Key: []byte(s.space.Name("f")), Lease: -9223372036854775000}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "f", nil, backend.PutOptions{If: backend.Absent}); !errors.Is(err, backend.ErrExists) {
		t.Error(err)
	}
	if _, err := s.Put(ctx, "f", nil, backend.PutOptions{If: backend.Present}); err != nil {
		t.Error(err)
	}
}

// A call that is under way when the Store closes the client that it has opened itself says that it was closed.
func TestCloseUnderLoad(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
	for range 20 {
		s, err := openURL(t, Driver{}, srv.URL()+"/"+testserver.UniqueName(t))
		if err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		started := make(chan struct{}, 8)
		for range 8 {
			calls.Go(func() {
				for first := true; ; first = false {
					err := s.Delete(t.Context(), "k", backend.DeleteOptions{})
					if first {
						started <- struct{}{}
					}
					if errors.Is(err, backend.ErrClosed) {
						return
					}
					if !errors.Is(err, backend.ErrNotFound) && !errors.Is(err, backend.ErrUncertain) {
						t.Errorf("a call beside Close: %v", err)
						return
					}
				}
			})
		}
		for range 8 {
			<-started
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		calls.Wait()
	}
}

// R5: names that are no keys are counted, and told of once.
func TestForeignNames(t *testing.T) {
	var logged bytes.Buffer
	root := testserver.UniqueName(t)
	s, ctx := open(t, Options{Root: root, Logger: slog.New(slog.NewTextHandler(&logged, nil))}), within(t, 30*time.Second)
	for _, name := range []string{"a//b", "dir/", "\xff"} {
		if _, err := dial(t).Put(ctx, root+"/"+name, "v"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for e, err := range s.List(ctx, "", backend.ListOptions{}) {
			t.Errorf("listed %q, %v", e.Key, err)
		}
	}
	if n := s.ForeignNames(); n != 6 || strings.Count(logged.String(), "not canonical keys") != 1 {
		t.Errorf("%d times in two lists of three, logged %q", n, &logged)
	}
}
