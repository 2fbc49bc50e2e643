package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/lock"
)

// everyCall makes each call that does I/O once, on a key that need not exist. It is what closed stores, ended contexts and
// unreachable servers are tried with.
var everyCall = func() map[string]func(context.Context, *kv.Store) error {
	calls := map[string]func(context.Context, *kv.Store) error{
		"ping": func(ctx context.Context, s *kv.Store) error { return s.Ping(ctx) },
		"list": func(ctx context.Context, s *kv.Store) error { _, err := kv.Collect(s.List(ctx, "")); return err },
		"delete prefix": func(ctx context.Context, s *kv.Store) error {
			_, err := s.DeletePrefix(ctx, "below")
			return err
		},
		"watch": func(ctx context.Context, s *kv.Store) error {
			w, err := s.Watch(ctx, "below", kv.FromSnapshot())
			if err == nil {
				_, err = w.Next(ctx)
				w.Close()
			}
			return err
		},
		"wait for a lock": func(ctx context.Context, s *kv.Store) error {
			held, err := lock.Lock(ctx, s, "key")
			if err == nil {
				held.Unlock(ctx)
			}
			return err
		},
	}
	for op, do := range keyed {
		calls[op] = func(ctx context.Context, s *kv.Store) error { return do(ctx, s, "key") }
	}
	return calls
}()

var errWhy = errors.New("the request's client hung up")

// TestEndedContext makes every call with a context that has ended: it returns within 100 ms, with the context's error and
// with its cause, and does nothing.
func TestEndedContext(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		kept, err := s.Put(t.Context(), "kept", []byte("what was there"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errWhy)
		for op, do := range everyCall {
			var err error
			pace.Best(t, 100*time.Millisecond, op, func() time.Duration { return pace.Timed(func() { err = do(ctx, s) }) })
			if !errors.Is(err, context.Canceled) || !errors.Is(err, errWhy) {
				t.Errorf("%s: %v, want both errors of the context", op, err)
			}
			checkError(t, op, err)
		}
		unharmed(t, t.Context(), s, kept)
	})
}

// TestClosedStore makes every call on a store that was closed, and on a view of it: ErrClosed, at once. What the store had
// written is there for another client.
func TestClosedStore(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, other := open(t), open(t)
		kept, err := s.Put(t.Context(), "kept", []byte("what was there"))
		if err != nil {
			t.Fatal(err)
		}
		view := s.Sub("view")
		w, err := view.Watch(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // Close is idempotent
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if ev, err := w.Next(t.Context()); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("the watch gave %v, %v", ev, err)
		}
		for op, do := range everyCall {
			for _, closed := range []*kv.Store{s, view} {
				var err error
				pace.Best(t, 100*time.Millisecond, op, func() time.Duration { return pace.Timed(func() { err = do(t.Context(), closed) }) })
				if !errors.Is(err, kv.ErrClosed) {
					t.Errorf("%s: %v, want %v", op, err, kv.ErrClosed)
				}
				checkError(t, op, err)
			}
		}
		unharmed(t, t.Context(), other, kept)
	})
}
