package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keepalive"
)

// Held is a lock that is held, or was. Unlock it after a loss too: until then,
// or the store's Close, something of it is kept in memory. Methods are safe for
// concurrent use.
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
	// answerFor is how long a call without a deadline waits for a store that
	// does not answer (R38).
	answerFor = 5 * time.Second
)

// within calls f with ctx or, if that has no deadline, until the given time at
// most. That deadline is not the caller's, who is not told of it.
func within(ctx context.Context, until time.Time, f func(context.Context) error) error {
	if _, ok := ctx.Deadline(); ok {
		return f(ctx)
	}
	bounded, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	err := f(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer within %v", kv.ErrUnavailable, answerFor)
	}
	return err
}

// patience is until when a call that begins now waits without a deadline.
func patience() time.Time { return time.Now().Add(answerFor) }

// fullName is the name as the driver sees it. That it is no name is an error of
// op.
func fullName(s *kv.Store, op kv.Op, name string) (string, error) {
	full, err := s.Key(name)
	return full, as(op, err)
}

// as makes err an error of op.
func as(op kv.Op, err error) error {
	var wrapped *kv.Error
	if errors.As(err, &wrapped) {
		err = &kv.Error{Op: op, Store: wrapped.Store, Key: wrapped.Key, Err: wrapped.Err}
	}
	return err
}

// acquire enters the queue of the lock whose name the driver sees as full, and
// waits for admission.
func acquire(ctx context.Context, s *kv.Store, full string, o backend.ContendOptions) (*Held, error) {
	h := &Held{s: s, name: full, remove: func() {}, unlocked: make(chan struct{})}
	if err := s.Do(ctx, kv.OpLock, full, func(ctx context.Context) (err error) {
		h.c, err = s.Backend().Contend(ctx, full, o)
		return err
	}); err != nil {
		if h.c != nil {
			// An interceptor made an error of a place that was taken.
			_ = h.release(ctx, patience())
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
		h.unlock(ctx, patience())
	})
	if err == nil {
		h.remove = remove
		err = h.wait(ctx)
	} else {
		err = h.fail(kv.OpLock, kv.ErrClosed)
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
	switch {
	case err == nil || waiting.Err() == nil:
	case ctx.Err() == nil:
		// Nobody else has the lock yet who could have unlocked it.
		err = h.fail(kv.OpLock, kv.ErrClosed)
	case errors.Is(err, kv.ErrLockLost):
		// Close has given the place up, and the caller beside it.
		err = h.fail(kv.OpLock, backend.ContextError(ctx))
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
// is lost, with cause kv.ErrLockLost. Do the work under it. It is kept until one
// of them ends: for many pieces of work, give each a parent that ends with it.
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
	contexts.Require(ctx)
	h.remove()
	return h.unlock(ctx, patience())
}

func (h *Held) unlock(ctx context.Context, until time.Time) error {
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
	h.result = h.release(ctx, until)
	if lost := h.Err(); lost != nil {
		h.result = lost
	}
	return h.result
}

// release gives the place up. Without a deadline it waits for that until the
// given time.
func (h *Held) release(ctx context.Context, until time.Time) error {
	err := within(ctx, until, func(ctx context.Context) error {
		return h.s.Do(ctx, kv.OpUnlock, h.name, h.c.Release)
	})
	var wrapped *kv.Error
	if err != nil && !errors.As(err, &wrapped) {
		err = h.fail(kv.OpUnlock, err)
	}
	return err
}

// refused asks the store whether the lock is lost: it may know before the
// holder was told.
func (h *Held) refused(ctx context.Context) bool {
	select {
	case <-h.Done():
		return h.Err() != nil
	default:
	}
	err := h.s.Do(ctx, kv.OpLock, h.name, func(ctx context.Context) error {
		_, err := h.s.Backend().Commit(ctx, backend.Txn{Checks: []backend.Check{h.c.Check()}})
		return err
	})
	return errors.Is(err, kv.ErrLockLost)
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
	contexts.Require(parent)
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

// Unlock gives all locks up, in reverse order, and returns the first error. Like
// Held.Unlock it waits five seconds without a deadline, for all of them together.
func (s Set) Unlock(ctx context.Context) error {
	contexts.Require(ctx)
	until := patience()
	var first error
	for i := len(s) - 1; i >= 0; i-- {
		s[i].remove()
		if err := s[i].unlock(ctx, until); err != nil && first == nil {
			first = err
		}
	}
	return first
}
