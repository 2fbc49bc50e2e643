package etcdkv

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// election is what the leases of a cluster answer while it elects a leader.
type election struct {
	pb.LeaseClient
	s      *Store
	before atomic.Int32 // requests to list leases that fail yet
	during atomic.Int32 // requests about one lease that fail yet
}

func (e *election) LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest, opts ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
	if e.before.Add(-1) >= 0 {
		e.s.observe(&pb.ResponseHeader{ClusterId: e.s.cluster.Load(), RaftTerm: e.s.term.Load() + 1}) // another request's reply
		return nil, status.Error(codes.Unavailable, "no leader")
	}
	return e.LeaseClient.LeaseLeases(ctx, r, opts...)
}

func (e *election) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest, opts ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
	if e.during.Add(-1) >= 0 {
		return nil, status.Error(codes.Unavailable, "no leader")
	}
	return e.LeaseClient.LeaseTimeToLive(ctx, r, opts...)
}

// prolonged puts a key that expired an hour ago, under a lease that has begun anew.
func prolonged(t *testing.T, s *Store) {
	t.Helper()
	ctx, id := within(t, 20*time.Second), leaseID(time.Now().Add(-time.Hour))
	if _, err := call(ctx, s, reads, s.leases.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: 600}); err != nil {
		t.Fatal(err)
	}
	if _, err := call(ctx, s, writes, s.kv.Put, &pb.PutRequest{Key: []byte(s.space.Name("k")), Lease: id}); err != nil {
		t.Fatal(err)
	}
}

// What a new leader has prolonged is reaped, whatever the election looks like.
func TestReaperInElections(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    func(e *election)
	}{
		{"one after another", func(e *election) { e.before.Store(1) }},
		{"no leader when an entry expires", func(e *election) { e.during.Store(2) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx := open(t, Options{}), within(t, 20*time.Second)
			prolonged(t, s)
			e := &election{LeaseClient: s.leases, s: s}
			tc.f(e)
			s.leases = e
			w, err := s.Watch(ctx, "", backend.WatchOptions{}) // which makes the reaper look
			if err != nil {
				t.Fatal(err)
			}
			if ev, err := w.Next(ctx); err != nil || ev.Kind != backend.Deleted {
				t.Errorf("%+v, %v", ev, err)
			}
		})
	}
}

// What was prolonged when no client was there is reaped by the first that comes.
func TestReaperComesLate(t *testing.T) {
	ctx, root := within(t, 20*time.Second), testserver.UniqueName(t)
	s := open(t, Options{Root: root})
	prolonged(t, s)
	w, err := open(t, Options{Root: root}).Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := w.Next(ctx); err != nil || ev.Kind != backend.Deleted {
		t.Errorf("%+v, %v", ev, err)
	}
}
