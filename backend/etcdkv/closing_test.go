package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// closer closes a store, whatever its other end, before the answer to its next transaction is handed on.
type closer struct {
	pb.KVClient
	s     *Store
	close func()
}

func (c closer) Txn(ctx context.Context, r *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	resp, err := c.KVClient.Txn(ctx, r, opts...)
	c.close()
	<-c.s.life.Done()
	c.s.mu.Lock() // until Close has looked at what is held
	defer c.s.mu.Unlock()
	return resp, err
}

// Close gives back what the server grants in the same moment.
func TestGrantedAsItCloses(t *testing.T) {
	root := testserver.UniqueName(t)
	other, ctx := open(t, Options{Root: root}), within(t, 20*time.Second)
	if c, err := other.Contend(ctx, "l", backend.ContendOptions{}); err != nil { // which makes the bookkeeping
		t.Fatal(err)
	} else if err := c.Release(ctx); err != nil {
		t.Fatal(err)
	}
	during := func(f func(s *Store) error) {
		t.Helper()
		s := New(dial(t), Options{Root: root})
		s.schemaOK.Store(true)
		var closing sync.WaitGroup
		s.kv = closer{s.kv, s, sync.OnceFunc(func() { closing.Go(func() { _ = s.Close() }) })}
		if err := f(s); !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
		closing.Wait()
	}
	during(func(s *Store) error {
		_, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute})
		return err
	})
	c, err := other.Contend(ctx, "l", backend.ContendOptions{Try: true})
	if err != nil {
		t.Errorf("the lock of a closed store: %v", err)
	} else if err := c.Release(ctx); err != nil {
		t.Error(err)
	}
	during(func(s *Store) error {
		_, err := s.Register(ctx, "k", nil, backend.RegisterOptions{TTL: time.Minute})
		return err
	})
	if e, err := other.Get(ctx, "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("the key of a closed store: %+v, %v", e, err)
	}
}

// Close gives up what it cannot give back, however much that is.
func TestCloseWithoutServer(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
	p := newProxy(t, srv.Addrs()[0])
	s, ctx := New(dial(t, p.addr), Options{Root: testserver.UniqueName(t)}), within(t, 30*time.Second)
	for i := range 3 * giveBackAtOnce {
		if _, err := s.Contend(ctx, fmt.Sprint(i), backend.ContendOptions{Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	p.refuse(true)
	p.cut()
	start, stalls := time.Now(), pace.Watch(t)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > closingTime*3/2+stalls.Since(start) {
		t.Errorf("Close took %v, not %v", took, closingTime)
	}
}
