package etcdkv

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/polykv/kv/backend"
)

// pageSizes notes the values that the answers to a range hold together.
type pageSizes struct {
	pb.KVClient
	sizes []int
}

func (p *pageSizes) Range(ctx context.Context, r *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	resp, err := p.KVClient.Range(ctx, r, opts...)
	size := 0
	for _, kv := range resp.GetKvs() {
		size += len(kv.Value)
	}
	p.sizes = append(p.sizes, size)
	return resp, err
}

// Where entries have TTLs the names of children come with values. A page holds no more of them for all that.
func TestPagesOfChildren(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 30*time.Second)
	if _, err := s.Put(ctx, "ttl", nil, backend.PutOptions{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	const n, size = 1200, 16 << 10
	value := bytes.Repeat([]byte("v"), size)
	for i := 0; i < n; i += 60 {
		var txn backend.Txn
		for j := range 60 {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("d/%04d", i+j), Value: value})
		}
		if _, err := s.Commit(ctx, txn); err != nil {
			t.Fatal(err)
		}
	}
	pages := &pageSizes{KVClient: s.kv}
	s.kv = pages
	found := 0
	for e, err := range s.List(ctx, "d", backend.ListOptions{Children: true}) {
		if err != nil || len(e.Value) != size {
			t.Fatalf("%d bytes, %v", len(e.Value), err)
		}
		found++
	}
	if found != n {
		t.Errorf("%d children, want %d", found, n)
	}
	for i, got := range pages.sizes {
		if limit := max(pageBytes, firstPage*size) + size; got > limit {
			t.Errorf("page %d has %d bytes, over %d", i, got, limit)
		}
	}
}

// laggard answers pages of a revision as a member does that has not reached it,
// unless it is asked to catch up first.
type laggard struct {
	pb.KVClient
	refused int
}

func (l *laggard) Range(ctx context.Context, r *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	if r.Serializable && r.Revision != 0 {
		l.refused++
		return nil, rpctypes.ErrGRPCFutureRev
	}
	return l.KVClient.Range(ctx, r, opts...)
}

// The pages of a stale list may come from several members, and the second may be behind the first.
func TestStalePagesOfSeveralMembers(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 30*time.Second)
	const n = 2*firstPage + 1
	for i := 0; i < n; i += 50 {
		var txn backend.Txn
		for j := i; j < min(i+50, n); j++ {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("d/%04d", j)})
		}
		if _, err := s.Commit(ctx, txn); err != nil {
			t.Fatal(err)
		}
	}
	s.streaming.Store(streamMissing) // as before etcd 3.7
	behind := &laggard{KVClient: s.kv}
	s.kv = behind
	for _, o := range []backend.ListOptions{{}, {KeysOnly: true}, {Children: true}} {
		o.Stale, behind.refused = true, 0
		found := 0
		for _, err := range s.List(ctx, "d", o) {
			if err != nil {
				t.Fatalf("%+v: after %d keys: %v", o, found, err)
			}
			found++
		}
		if found != n || behind.refused == 0 {
			t.Errorf("%+v: %d keys, want %d; %d pages were refused", o, found, n, behind.refused)
		}
	}
}
