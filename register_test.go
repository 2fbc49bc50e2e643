package kv_test

import (
	"context"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

// hanging is a driver's store whose leases do not answer a Set.
type hanging struct {
	backend.Store
	set chan struct{} // takes a token for each Set that came
}

func (s *hanging) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	l, err := s.Store.Register(ctx, key, value, o)
	return &hangingLease{Lease: l, s: s}, err
}

type hangingLease struct {
	backend.Lease
	s *hanging
}

func (l *hangingLease) Set(ctx context.Context, _ []byte) (backend.Entry, error) {
	l.s.set <- struct{}{}
	<-ctx.Done()
	return backend.Entry{}, backend.Because(backend.ErrUncertain, backend.ContextError(ctx))
}

// R38: neither another Update nor Entry waits for an Update that hangs.
func TestUpdateOfRegistrationHangs(t *testing.T) {
	b := &hanging{Store: memkv.New(memkv.Options{}), set: make(chan struct{}, 2)}
	s := kv.New(b)
	defer s.Close()
	ctx, cancel := context.WithCancel(limited(t))
	reg := must[*kv.Registration[[]byte]](t)(s.Register(ctx, "k", []byte("first"), time.Minute))
	first := make(chan error)
	go func() { first <- reg.Update(ctx, []byte("second")) }()
	<-b.set

	others := make(chan struct{})
	go func() {
		defer close(others)
		if e := reg.Entry(); string(e.Value) != "first" || e.Revision == 0 {
			t.Errorf("the entry is %q at %d", e.Value, e.Revision)
		}
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		matches(t, "beside it", reg.Update(short, []byte("third")), context.DeadlineExceeded, kv.ErrUncertain)
	}()
	select {
	case <-others:
	case <-time.After(20 * time.Second):
		t.Error("they wait")
	}
	cancel()
	matches(t, "the one that hung", <-first, context.Canceled, kv.ErrUncertain)
	<-others
}
