package locktest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// gate holds calls of one operation up.
type gate struct {
	op      kv.Op
	mu      sync.Mutex
	shut    chan struct{} // nil: open
	reached chan struct{}
}

func newGate(op kv.Op) *gate { return &gate{op: op, reached: make(chan struct{}, 100)} }

func (g *gate) close() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shut := make(chan struct{})
	g.shut = shut
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.shut = nil
		close(shut)
	})
}

func (g *gate) intercept(ctx context.Context, call kv.Call, next func(context.Context) error) error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil && call.Op == g.op {
		g.reached <- struct{}{}
		select {
		case <-shut:
		case <-ctx.Done():
		}
	}
	return next(ctx)
}

// besides has two call Unlock, of whom the first is held up.
func besides(e *env) {
	g := newGate(kv.OpUnlock)
	s := e.open(kv.Intercept(g.intercept))
	held, err := lock.Lock(e.ctx(), s, "l")
	e.must("lock", err)
	open := g.close()
	defer open()
	first := make(chan error, 1)
	go func() { first <- held.Unlock(e.ctx()) }()
	soon(e, "the first Unlock", g.reached)
	ctx, cancel := context.WithCancel(e.ctx())
	cancel()
	second := make(chan error, 1)
	go func() { second <- held.Unlock(ctx) }()
	if err := soon(e, "the second Unlock", second); !errors.Is(err, context.Canceled) {
		e.Errorf("an Unlock with an ended context beside another: %v", err)
	}
	soon(e, "Done beside an Unlock that is held up", held.Done())
	open()
	e.must("the first Unlock", soon(e, "the first Unlock", first))
	e.must("an Unlock after both", held.Unlock(e.ctx()))
}

// ended makes every call on a lock whose time is over.
func ended(e *env) {
	calls := func(what string, h *lock.Held, loss bool) {
		for range 2 {
			err := h.Unlock(e.ctx())
			if loss && !errors.Is(err, kv.ErrLockLost) || !loss && err != nil {
				e.Errorf("%s: Unlock: %v", what, err)
			}
		}
		if err := h.Err(); loss != errors.Is(err, kv.ErrLockLost) || !loss && err != nil {
			e.Errorf("%s: Err: %v", what, err)
		}
		soon(e, what+": Done", h.Done())
		work := h.Context(e.ctx())
		soon(e, what+": the context", work.Done())
		if cause := context.Cause(work); loss != errors.Is(cause, kv.ErrLockLost) {
			e.Errorf("%s: the context's cause: %v", what, cause)
		}
	}
	refused := func(what string, s *kv.Store, h *lock.Held) {
		if _, err := s.Put(e.ctx(), "k", nil, kv.If(h.Check())); !errors.Is(err, kv.ErrLockLost) {
			e.Errorf("%s: a write: %v", what, err)
		}
	}
	var cut shut
	s := e.open(kv.Intercept(cut.intercept))
	twice, err := lock.Lock(e.ctx(), s, "twice")
	e.must("lock", err)
	calls("unlocked twice", twice, false)
	refused("unlocked twice", s, twice)

	closed := kv.New(e.h.Open(e.T, e.root))
	late, err := lock.Lock(e.ctx(), closed, "late")
	e.must("lock", err)
	e.must("close", closed.Close())
	calls("after Close", late, false)
	refused("after Close", s, late)
	if _, err := lock.Lock(e.ctx(), closed, "late"); !errors.Is(err, kv.ErrClosed) {
		e.Errorf("a lock of a closed store: %v", err)
	}
	e.must("Close again", closed.Close())

	lost, err := lock.Lock(e.ctx(), s, "lost", lock.Lease(shortest(s)))
	e.must("lock", err)
	cut.off()
	ends(e, "the holder is told", lost.Done(), shortest(s)+lag)
	calls("lost", lost, true)
	e.must("close", s.Close())
	calls("lost, after Close", lost, true)
}

// shortest is the shortest lease that is worth waiting for: it is renewed in
// time, too, on a machine that stands still for two seconds.
func shortest(s *kv.Store) time.Duration { return max(4*time.Second, s.Capabilities().MinLease) }

// halfLost loses the first of two locks while the second is waited for.
func halfLost(e *env) {
	var cut shut
	s, other := e.open(kv.Intercept(cut.intercept)), e.open()
	b, err := lock.Lock(e.ctx(), other, "b")
	e.must("lock", err)
	got := make(chan error, 1)
	go func() {
		_, err := lock.LockAll(e.ctx(), s, []string{"b", "a"}, lock.Lease(shortest(s)))
		got <- err
	}()
	held := func(name string) bool {
		h, err := lock.TryLock(e.ctx(), other, name)
		if err == nil {
			e.must("unlock", h.Unlock(e.ctx()))
			return false
		}
		return errors.Is(err, kv.ErrLocked)
	}
	for !held("a") {
	}
	never(e, "a set was had beside another's lock", got)
	cut.off()
	select {
	case err := <-got:
		if !errors.Is(err, kv.ErrLockLost) {
			e.Errorf("LockAll: %v", err)
		}
	case <-time.After(shortest(s) + lag + patience):
		e.Error("LockAll goes on to wait, with a lock that it has lost")
	}
	e.must("unlock", b.Unlock(e.ctx()))
}
