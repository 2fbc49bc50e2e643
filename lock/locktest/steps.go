package locktest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// A misstep makes one step of an acquisition go wrong. Steps are the calls that
// package lock makes of the store: the place, the wait for admission, renewals,
// the release.
type misstep struct {
	name   string
	before bool // the store is not asked
	cancel bool // by the caller's cancel, else by an error
}

var errMisstep = errors.New("the step went wrong")

// trip counts the steps of one acquisition and makes the n-th go wrong.
type trip struct {
	misstep
	n      int
	cancel context.CancelFunc

	mu      sync.Mutex
	steps   int
	tripped bool
}

func (f *trip) intercept(ctx context.Context, call kv.Call, next func(context.Context) error) error {
	switch call.Op {
	case kv.OpLock, kv.OpUnlock, kv.OpRenew:
	default:
		return next(ctx)
	}
	f.mu.Lock()
	now := f.steps == f.n && !f.tripped
	f.steps++
	f.tripped = f.tripped || now
	f.mu.Unlock()
	switch {
	case !now:
		return next(ctx)
	case f.before && f.misstep.cancel:
		f.cancel()
		return next(ctx)
	case f.before:
		return errMisstep
	}
	err := next(ctx)
	if f.misstep.cancel {
		f.cancel()
		return err
	}
	return errMisstep
}

func (f *trip) hit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tripped
}

// steps takes a lock again and again, with one more step that goes well before
// one that does not, until none goes wrong. After each, the next contender has
// the lock within two seconds.
func steps(e *env) {
	next := e.open()
	for _, how := range []misstep{
		{"a cancel before it", true, true},
		{"a cancel after it", false, true},
		{"an error before it", true, false},
		{"an error after it", false, false},
	} {
		for n := 0; ; n++ {
			name := fmt.Sprintf("step %d with %s", n, how.name)
			ctx, cancel := context.WithCancel(e.ctx())
			f := &trip{misstep: how, n: n, cancel: cancel}
			s := e.open(kv.Intercept(f.intercept))
			h, err := lock.Lock(ctx, s, "l")
			released := false
			if err == nil {
				// An error before the release is asked for leaves the lock to
				// its lease: there is nothing that could have known better.
				released = h.Unlock(ctx) == nil || !how.before
			}
			cancel()
			if n > 10 {
				e.Fatalf("%s: an acquisition takes no end of steps", name)
			}
			if err == nil && !released && f.hit() {
				e.must("close", s.Close())
				continue // which took the lock back
			}
			start := time.Now()
			free(e, name, next)
			if d := time.Since(start); d > 2*time.Second+lag+e.stalls.Since(start) {
				e.Errorf("%s: the next contender waited %v", name, d)
			}
			if !f.hit() {
				if err != nil {
					e.Errorf("%s: %v", name, err)
				}
				break
			}
		}
	}
}

// lag is what a busy machine adds to what should take no time.
const lag = time.Second

// free takes the lock and gives it back.
func free(e *env, what string, s *kv.Store) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx(), patience)
	defer cancel()
	h, err := lock.Lock(ctx, s, "l")
	if err != nil {
		e.Fatalf("%s: the next contender: %v", what, err)
	}
	e.must("unlock", h.Unlock(e.ctx()))
}
