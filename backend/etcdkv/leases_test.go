package etcdkv

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
)

// Somebody else may end the lease that several puts share. Each of them is told so, and all are made under another one.
func TestSharedLeaseGone(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 20*time.Second)
	put := func(key string) error {
		_, err := s.Put(ctx, key, nil, backend.PutOptions{TTL: time.Minute})
		return err
	}
	for range 5 {
		if err := put("first"); err != nil {
			t.Fatal(err)
		}
		for _, id := range s.pool.ids() {
			if _, err := call(ctx, s, reads, s.leases.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id}); err != nil && !errors.Is(err, backend.ErrInvalid) {
				t.Fatal(err)
			}
		}
		var puts sync.WaitGroup
		for i := range 16 {
			puts.Go(func() {
				if err := put(fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		puts.Wait()
	}
}

// The time in a lease's ID is the wall clock's, and that may be set.
func TestLeaseBeforeClockWasSet(t *testing.T) {
	s, ctx := open(t, Options{}), within(t, 20*time.Second)
	if _, err := s.lease(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.pool.mu.Lock()
	s.pool.leases[0].id = leaseID(time.Now().Add(50 * time.Minute)) // as if it had been ten minutes earlier by then
	s.pool.mu.Unlock()
	id, err := s.lease(ctx, time.Hour)
	if left := time.Until(expires(id)); err != nil || left < time.Hour-time.Minute {
		t.Errorf("a TTL of an hour ends in %v, %v", left, err)
	}
}
