package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"
)

func TestContextError(t *testing.T) {
	if err := ContextError(t.Context()); err != nil {
		t.Errorf("a context that has not ended: %v", err)
	}
	reason := errors.New("reason")
	for name, c := range map[string]struct {
		cause error
		want  []error
	}{
		"no cause":        {nil, []error{context.Canceled}},
		"a cause":         {reason, []error{context.Canceled, reason}},
		"a wrapped cause": {fmt.Errorf("because: %w", reason), []error{context.Canceled, reason}},
		// Under an errgroup the cause is a sibling's error, which may well be
		// the end of a context itself.
		"a deadline as cause":             {context.DeadlineExceeded, []error{context.Canceled, context.DeadlineExceeded}},
		"a cause that is a cancel itself": {fmt.Errorf("%w: %w", reason, context.Canceled), []error{context.Canceled, reason}},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(c.cause)
		err := ContextError(ctx)
		for _, want := range append(c.want, context.Cause(ctx)) {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v does not match %v", name, err, want)
			}
		}
	}
	ctx, cancel := context.WithDeadlineCause(t.Context(), time.Now().Add(-time.Second), reason)
	defer cancel()
	if err := ContextError(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, reason) {
		t.Errorf("a deadline: %v", err)
	}
}

func TestBecause(t *testing.T) {
	if err := Because(ErrUnavailable, nil); err != ErrUnavailable {
		t.Errorf("without a cause: %v", err)
	}
	err := Because(ErrUnavailable, io.EOF)
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, io.EOF) || err.Error() != "store unavailable: EOF" {
		t.Errorf("with a cause: %v", err)
	}
	if again := Because(ErrUnavailable, err); again != err {
		t.Errorf("with a cause that matches already: %v", again)
	}
	if both := Because(ErrUncertain, err); !errors.Is(both, ErrUncertain) || !errors.Is(both, ErrUnavailable) || !errors.Is(both, io.EOF) {
		t.Errorf("twice: %v", both)
	}
}

// The sentinels are told apart: none matches another one.
func TestSentinels(t *testing.T) {
	all := []error{
		ErrNotFound, ErrExists, ErrConflict, ErrInvalid, ErrInvalidKey, ErrTooLarge, ErrHistoryLost, ErrLocked, ErrLockLost,
		ErrLeaseLost, ErrUnavailable, ErrUncertain, ErrClosed, ErrPermission, ErrCorrupt, ErrNewerSchema, errors.ErrUnsupported,
	}
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%v, %v)", a, b)
			}
		}
	}
}

func TestCheckError(t *testing.T) {
	for cond, want := range map[Condition]error{Absent: ErrExists, Present: ErrNotFound, AtRevision: ErrConflict, LockHeld: ErrLockLost} {
		if got := cond.Failed(); got != want {
			t.Errorf("%v: %v, want %v", cond, got, want)
		}
		err := fmt.Errorf("commit: %w", &CheckError{Index: 3, Key: "a/b", Err: Because(cond.Failed(), io.EOF)})
		var ce *CheckError
		if !errors.Is(err, want) || !errors.Is(err, io.EOF) || !errors.As(err, &ce) || ce.Index != 3 {
			t.Errorf("%v does not match %v and its cause", err, want)
		}
	}
}

// Who reads the error knows whether a key or a lock is meant.
func TestCheckErrorText(t *testing.T) {
	for want, err := range map[string]*CheckError{
		`check of lock "scheduler" failed: lock lost`:        {Key: "scheduler", Err: ErrLockLost},
		`check of key "scheduler" failed: revision conflict`: {Key: "scheduler", Err: ErrConflict},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// A driver that has nothing of its own says so from every call.
func TestUnimplemented(t *testing.T) {
	ctx := t.Context()
	var s Store = Unimplemented{}
	for name, f := range map[string]func() error{
		"Get":          func() error { _, err := s.Get(ctx, "k", GetOptions{}); return err },
		"GetMany":      func() error { _, err := s.GetMany(ctx, nil, GetOptions{}); return err },
		"Put":          func() error { _, err := s.Put(ctx, "k", nil, PutOptions{}); return err },
		"Delete":       func() error { return s.Delete(ctx, "k", DeleteOptions{}) },
		"DeletePrefix": func() error { _, err := s.DeletePrefix(ctx, ""); return err },
		"Watch":        func() error { _, err := s.Watch(ctx, "", WatchOptions{}); return err },
		"Commit":       func() error { _, err := s.Commit(ctx, Txn{}); return err },
		"Register":     func() error { _, err := s.Register(ctx, "k", nil, RegisterOptions{}); return err },
		"Contend":      func() error { _, err := s.Contend(ctx, "l", ContendOptions{}); return err },
		"Ping":         func() error { return s.Ping(ctx) },
		"List": func() (last error) {
			for _, err := range s.List(ctx, "", ListOptions{}) {
				last = err
			}
			return last
		},
		"Holders": func() (last error) {
			for _, err := range s.Holders(ctx, "l") {
				last = err
			}
			return last
		},
	} {
		if err := f(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
