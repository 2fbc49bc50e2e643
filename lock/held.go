package lock

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keepalive"
)

// Held is a lock that is held, or was. Methods are safe for concurrent use.
type Held struct {
	s      *kv.Store
	name   string // full
	c      backend.Contender
	keeper *keepalive.Keeper
	remove func() // takes the hook of Close back

	unlocking atomic.Bool
	unlocked  chan struct{} // closed when the first Unlock returns
	result    error         // of the first Unlock, once that has returned
}

const (
	// releaseFor is how long Close waits for a lock's release.
	releaseFor = 2 * time.Second
	// unlockFor is how long an Unlock without a deadline waits for a store
	// that does not answer (R38).
	unlockFor = 5 * time.Second
)

// acquire enters the queue and waits for admission.
func acquire(ctx context.Context, s *kv.Store, name string, o backend.ContendOptions) (*Held, error) {
	full, err := s.Key(name)
	if err != nil {
		return nil, err
	}
	h := &Held{s: s, name: full, remove: func() {}, unlocked: make(chan struct{})}
	if err := s.Do(ctx, kv.OpLock, full, func(ctx context.Context) (err error) {
		h.c, err = s.Backend().Contend(ctx, full, o)
		return err
	}); err != nil {
		if h.c != nil {
			// An interceptor made an error of a place that was taken.
			_ = h.release(ctx)
		}
		return nil, err
	}
	// The place is renewed from here on: waiting may take longer than a
	// lease.
	h.keeper = keepalive.Start(keepalive.Lease{
		TTL:     h.c.Lease(),
		Renewed: h.c.Renewed(),
		LostErr: kv.ErrLockLost,
		Lost:    h.c.Lost(),
		Renew: func(ctx context.Context) error {
			return s.Do(ctx, kv.OpRenew, full, h.c.Renew)
		},
	})
	remove, err := s.OnClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), releaseFor)
		defer cancel()
		h.unlock(ctx)
	})
	if err == nil {
		h.remove = remove
		err = h.wait(ctx)
	}
	if err != nil {
		// The driver goes on in the background where ctx has ended already.
		h.Unlock(ctx)
		return nil, err
	}
	return h, nil
}

// wait returns nil once the contender is admitted.
func (h *Held) wait(ctx context.Context) error {
	waiting, cancel := context.WithCancel(h.keeper.Context(ctx))
	defer cancel()
	err := h.s.Do(waiting, kv.OpLock, h.name, h.c.Wait)
	if lost := h.Err(); lost != nil {
		return lost // and not the error of the context that ended with it
	}
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		// Nobody else has the lock yet who could have unlocked it.
		err = h.fail(kv.OpLock, kv.ErrClosed)
	}
	return err
}

// Token is the fencing token: among the holders of one name, a later one has a
// greater token. It grows across crashes and restarts where
// Capabilities.DurableFence is set.
func (h *Held) Token() uint64 { return h.c.Token() }

// Check is the condition that the lock is still held, for kv.If and Txn.If:
// the store refuses the write with kv.ErrLockLost when it is not.
func (h *Held) Check() kv.Check { return h.c.Check() }

// Done is closed when the lock is no longer held: lost, or unlocked.
func (h *Held) Done() <-chan struct{} { return h.keeper.Done() }

// Err is nil while the lock is held and after Unlock, and matches
// kv.ErrLockLost when it was lost.
func (h *Held) Err() error {
	err := h.keeper.Err()
	if err == nil {
		return nil
	}
	return h.fail(kv.OpLock, err)
}

// Context returns a context that ends with parent and with the lock: when that
// is lost, with cause kv.ErrLockLost. Do the work under it.
func (h *Held) Context(parent context.Context) context.Context { return h.keeper.Context(parent) }

// Unlock gives the lock up. It is idempotent and does not block longer than
// ctx, which bounds the waiting only: with an ended context the release is made
// too, in the background, and the store's Close waits for it. A ctx without a
// deadline waits five seconds for a store that does not answer, which then is
// kv.ErrUnavailable. If the lock was lost before, the error matches
// kv.ErrLockLost. A repeated Unlock returns what the first did; one beside it
// waits for it. After Close, which has released the lock, it returns what the
// release by Close did.
func (h *Held) Unlock(ctx context.Context) error {
	h.remove()
	return h.unlock(ctx)
}

func (h *Held) unlock(ctx context.Context) error {
	if !h.unlocking.CompareAndSwap(false, true) {
		select {
		case <-h.unlocked:
			return h.result
		default:
		}
		select {
		case <-h.unlocked:
			return h.result
		case <-ctx.Done():
			return h.fail(kv.OpUnlock, backend.ContextError(ctx))
		}
	}
	defer close(h.unlocked)
	h.keeper.Stop()
	h.result = h.release(ctx)
	if lost := h.Err(); lost != nil {
		h.result = lost
	}
	return h.result
}

// release gives the place up, and waits for that no longer than for a call
// without a deadline.
func (h *Held) release(ctx context.Context) error {
	if _, ok := ctx.Deadline(); ok {
		return h.s.Do(ctx, kv.OpUnlock, h.name, h.c.Release)
	}
	bounded, cancel := context.WithTimeout(ctx, unlockFor)
	defer cancel()
	err := h.s.Do(bounded, kv.OpUnlock, h.name, h.c.Release)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		// The deadline was not the caller's, who is not told of it.
		err = h.fail(kv.OpUnlock, fmt.Errorf("%w: not released within %v", kv.ErrUnavailable, unlockFor))
	}
	return err
}

func (h *Held) fail(op kv.Op, err error) error {
	return &kv.Error{Op: op, Store: h.s.Capabilities().Name, Key: h.name, Err: err}
}

// Set is several locks that are held together.
type Set []*Held

// Checks are the checks of all locks, for kv.If and Txn.If.
func (s Set) Checks() []kv.Check {
	out := make([]kv.Check, len(s))
	for i, h := range s {
		out[i] = h.Check()
	}
	return out
}

// Context returns a context that ends with parent and with the first lock that
// is lost.
func (s Set) Context(parent context.Context) context.Context {
	for _, h := range s {
		parent = h.Context(parent)
	}
	return parent
}

// err is the first loss.
func (s Set) err() error {
	for _, h := range s {
		if err := h.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Unlock gives all locks up, in reverse order, and returns the first error.
func (s Set) Unlock(ctx context.Context) error {
	var first error
	for i := len(s) - 1; i >= 0; i-- {
		if err := s[i].Unlock(ctx); err != nil && first == nil {
			first = err
		}
	}
	return first
}
