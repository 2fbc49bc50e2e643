package rediskv

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

// early is a context whose deadline a connection has noticed before the context's own timer did.
type early struct{ context.Context }

func (early) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

// A call that ran into its context's deadline says so, whichever of the two timers came first.
func TestTheConnectionMayKnowOfTheDeadlineFirst(t *testing.T) {
	for what, call := range map[string]func(ctx context.Context) error{
		"read":                 func(ctx context.Context) error { return readError(ctx, os.ErrDeadlineExceeded) },
		"write, sent":          func(ctx context.Context) error { return writeError(ctx, true, os.ErrDeadlineExceeded) },
		"write that never was": func(ctx context.Context) error { return writeError(ctx, false, os.ErrDeadlineExceeded) },
	} {
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, why)
		err := call(early{ctx})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, why) {
			t.Errorf("%s: %v", what, err)
		}
		if sent := what == "write, sent"; errors.Is(err, backend.ErrUncertain) != sent {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Long before the deadline it is another matter.
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := readError(ctx, os.ErrDeadlineExceeded); !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read that the server did not answer: %v", err)
	}
}
