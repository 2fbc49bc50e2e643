package backendtest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
)

// contend enters a lock's queue, for longer than the case lasts unless o has a
// lease.
func (e *env) contend(s backend.Store, name string, o backend.ContendOptions) backend.Contender {
	e.Helper()
	if o.Lease == 0 {
		o.Lease = time.Minute
	}
	c, err := s.Contend(e.ctx, name, o)
	e.noErr(err, "Contend(%q, %+v)", name, o)
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.patience) // the test's has ended
		defer cancel()
		if err := c.Release(ctx); err != nil && !errors.Is(err, backend.ErrClosed) {
			e.Errorf("Release of %q: %v", name, err)
		}
	})
	return c
}

// admitted waits until c holds, and returns its token.
func (e *env) admitted(c backend.Contender) uint64 {
	e.Helper()
	ctx, cancel := context.WithTimeoutCause(e.ctx, e.patience, errors.New("not admitted"))
	defer cancel()
	e.noErr(c.Wait(ctx), "Wait")
	if c.Token() == 0 {
		e.Fatalf("the token of a holder is 0")
	}
	return c.Token()
}

// waits demands that c is not admitted, as far as a short time can show.
func (e *env) waits(c backend.Contender) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, never)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("Wait of one that has to wait: %v", err)
	}
}

func (e *env) release(c backend.Contender) {
	e.Helper()
	e.noErr(c.Release(e.ctx), "Release")
}

// refused demands that the store refuses a write under c's check.
func (e *env) refused(s backend.Store, c backend.Contender) {
	e.Helper()
	_, err := s.Commit(e.ctx, backend.Txn{
		Checks: []backend.Check{{If: backend.Absent, Key: "never"}, c.Check()},
		Writes: []backend.Write{{Key: "fenced", Value: []byte("too late")}},
	})
	e.wantErr(err, "Commit under the check of a lost lock", backend.ErrLockLost)
	var ce *backend.CheckError
	if !errors.As(err, &ce) || ce.Index != 1 || ce.Key != c.Check().Key {
		e.Errorf("%v (%+v) does not name check 1, of %q", err, ce, c.Check().Key)
	}
}

func (e *env) fenced(s backend.Store, c backend.Contender, value string) {
	e.Helper()
	_, err := s.Commit(e.ctx, backend.Txn{
		Checks: []backend.Check{c.Check()},
		Writes: []backend.Write{{Key: "fenced", Value: []byte(value)}},
	})
	e.noErr(err, "Commit under the check of a held lock")
	e.holds(s, "fenced", value)
}

func (e *env) tries(s backend.Store, name string) error {
	e.Helper()
	c, err := s.Contend(e.ctx, name, backend.ContendOptions{Lease: time.Minute, Try: true})
	if err != nil {
		return err
	}
	e.admitted(c) // at once
	e.release(c)
	return nil
}

// oneByOne demands that of contenders whose order is not known one holds at a
// time, and each gets its turn.
func (e *env) oneByOne(queue []backend.Contender) {
	e.Helper()
	var inside atomic.Int32
	e.together(len(queue), func(i int) {
		ctx, cancel := context.WithTimeout(e.ctx, e.patience)
		defer cancel()
		if err := queue[i].Wait(ctx); err != nil {
			e.Errorf("Wait: %v", err)
			return
		}
		if n := inside.Add(1); n > 1 {
			e.Errorf("%d hold an exclusive lock", n)
		}
		<-time.After(never / 3) // long enough for another one to come in
		inside.Add(-1)
		if err := queue[i].Release(e.ctx); err != nil {
			e.Errorf("Release: %v", err)
		}
	})
}
