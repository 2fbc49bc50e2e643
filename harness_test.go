package kv_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

// counted is a driver's store that counts the calls that reach it, and makes
// them fail where it is told to.
type counted struct {
	backend.Store
	calls atomic.Int64

	mu   sync.Mutex
	fail map[kv.Op][]error // of the next calls; nil lets one pass
	lost map[kv.Op]error   // of the next call, which is applied
	ttl  time.Duration     // that was last asked of Register
}

func (s *counted) failNext(op kv.Op, errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.fail = map[kv.Op][]error{}
	}
	s.fail[op] = append(s.fail[op], errs...)
}

func (s *counted) loseReply(op kv.Op, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = map[kv.Op]error{}
	}
	s.lost[op] = err
}

func (s *counted) enter(op kv.Op) error {
	s.calls.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.fail[op]
	if len(q) == 0 {
		return nil
	}
	s.fail[op] = q[1:]
	return q[0]
}

func (s *counted) leave(op kv.Op, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost := s.lost[op]; lost != nil {
		delete(s.lost, op)
		return lost
	}
	return err
}

func (s *counted) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	if err := s.enter(kv.OpGet); err != nil {
		return backend.Entry{}, err
	}
	return s.Store.Get(ctx, key, o)
}

func (s *counted) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	if err := s.enter(kv.OpGetMany); err != nil {
		return nil, err
	}
	return s.Store.GetMany(ctx, keys, o)
}

func (s *counted) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if err := s.enter(kv.OpPut); err != nil {
		return backend.Entry{}, err
	}
	e, err := s.Store.Put(ctx, key, value, o)
	return e, s.leave(kv.OpPut, err)
}

func (s *counted) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	if err := s.enter(kv.OpDelete); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key, o)
}

func (s *counted) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	if err := s.enter(kv.OpDeletePrefix); err != nil {
		return 0, err
	}
	return s.Store.DeletePrefix(ctx, prefix)
}

func (s *counted) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	if err := s.enter(kv.OpList); err != nil {
		return func(yield func(backend.Entry, error) bool) { yield(backend.Entry{}, err) }
	}
	return s.Store.List(ctx, prefix, o)
}

func (s *counted) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if err := s.enter(kv.OpWatch); err != nil {
		return nil, err
	}
	return s.Store.Watch(ctx, prefix, o)
}

func (s *counted) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	if err := s.enter(kv.OpCommit); err != nil {
		return backend.TxnResult{}, err
	}
	r, err := s.Store.Commit(ctx, t)
	return r, s.leave(kv.OpCommit, err)
}

func (s *counted) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	if err := s.enter(kv.OpRegister); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.ttl = o.TTL
	s.mu.Unlock()
	return s.Store.Register(ctx, key, value, o)
}

func (s *counted) Adopt(ctx context.Context, prefix string) (int64, error) {
	if err := s.enter(kv.OpAdopt); err != nil {
		return 0, err
	}
	return s.Store.Adopt(ctx, prefix)
}

func (s *counted) Ping(ctx context.Context) error {
	if err := s.enter(kv.OpPing); err != nil {
		return err
	}
	return s.Store.Ping(ctx)
}

// newCounted returns a store over memory that counts what reaches the driver.
func newCounted(t testing.TB, opts ...kv.Option) (*kv.Store, *counted) {
	t.Helper()
	b := &counted{Store: memkv.New(memkv.Options{})}
	s := kv.New(b, opts...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, b
}

// matches fails the test unless err matches every one of want, and is a
// *kv.Error.
func matches(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	var wrapped *kv.Error
	if err != nil && !errors.As(err, &wrapped) {
		t.Errorf("%s: not a *kv.Error: %v", what, err)
	}
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: want %v, got %v", what, w, err)
		}
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
