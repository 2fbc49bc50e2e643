package watch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lossy is a store whose watches can be made to lose their history.
type lossy struct {
	backend.Store
	mu   sync.Mutex
	open []*lossyWatch
}

func (s *lossy) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	w, err := s.Store.Watch(ctx, prefix, o)
	if err != nil {
		return nil, err
	}
	lw := &lossyWatch{Watch: w}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, lw)
	return lw, nil
}

// lose makes every open watch miss what it has not delivered.
func (s *lossy) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.open {
		w.lost.Store(true)
	}
	s.open = nil
}

type lossyWatch struct {
	backend.Watch
	lost atomic.Bool
}

func (w *lossyWatch) Next(ctx context.Context) (backend.Event, error) {
	ev, err := w.Watch.Next(ctx)
	if err == nil && w.lost.Load() {
		return backend.Event{}, backend.ErrHistoryLost
	}
	return ev, err
}

func newStore(t testing.TB, opts ...kv.Option) *kv.Store {
	t.Helper()
	s := kv.New(memkv.New(memkv.Options{}), opts...)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func numbers(s *kv.Store) *kv.Typed[int] { return kv.NewTyped(s, codec.JSON[int](), "n") }

func put[T any](t testing.TB, s *kv.Typed[T], key string, v T) kv.Entry[T] {
	t.Helper()
	e, err := s.Put(context.Background(), key, v)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func del[T any](t testing.TB, s *kv.Typed[T], key string) {
	t.Helper()
	if err := s.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
}

// soon fails the test unless cond holds within twenty seconds.
func soon(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) { // and look again
		if time.Now().After(deadline) {
			t.Fatalf("not within twenty seconds: %s", what)
		}
	}
}

// limited is a context for a call that must not hang.
func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// next fails the test unless the stream's next event is the one described:
// kind, key, value, and the value before in parentheses.
func next[T any](t testing.TB, s interface {
	Next(context.Context) (kv.Event[T], error)
}, want string) kv.Event[T] {
	t.Helper()
	ev, err := s.Next(limited(t))
	if err != nil {
		t.Fatalf("want %q: %v", want, err)
	}
	if got := show(ev); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	return ev
}

func show[T any](ev kv.Event[T]) string {
	out := ev.Kind.String()
	if ev.Key != "" {
		out += fmt.Sprintf(" %s %v", ev.Key, ev.Value)
	}
	if ev.Prev != nil {
		out += fmt.Sprintf(" (%v)", ev.Prev.Value)
	}
	return out
}

func undecodable(err error) bool {
	var bad *codec.Error
	return errors.As(err, &bad)
}
