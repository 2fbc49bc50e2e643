package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

// Lock waits until it holds the lock called name, alone. ctx bounds the
// waiting; when it ends, Lock returns its error at once, and what the request
// left behind is removed in the background.
//
// Errors: kv.ErrInvalidKey, kv.ErrInvalid, kv.ErrTooLarge (all before any I/O),
// kv.ErrLockLost (the place in the queue was lost while waiting),
// kv.ErrUnavailable, kv.ErrUncertain (what the request left is removed in the
// background, or by the lease's end), kv.ErrPermission, kv.ErrClosed, the
// context's.
func Lock(ctx context.Context, s *kv.Store, name string, opts ...Option) (*Held, error) {
	return contend(ctx, s, name, opts, backend.ContendOptions{})
}

// TryLock takes the lock if nobody holds it, or waits for it, else
// kv.ErrLocked. It does not wait. Errors besides: as for Lock.
func TryLock(ctx context.Context, s *kv.Store, name string, opts ...Option) (*Held, error) {
	return contend(ctx, s, name, opts, backend.ContendOptions{Try: true})
}

// RLock waits until it holds the lock called name together with other readers.
// A reader that comes after a waiting Lock waits behind it. Errors: as for Lock.
func RLock(ctx context.Context, s *kv.Store, name string, opts ...Option) (*Held, error) {
	return contend(ctx, s, name, opts, backend.ContendOptions{Shared: true})
}

// TryRLock is RLock without waiting: kv.ErrLocked. Errors besides: as for Lock.
func TryRLock(ctx context.Context, s *kv.Store, name string, opts ...Option) (*Held, error) {
	return contend(ctx, s, name, opts, backend.ContendOptions{Shared: true, Try: true})
}

// contend acquires as the user's options and how say.
func contend(ctx context.Context, s *kv.Store, name string, opts []Option, how backend.ContendOptions) (*Held, error) {
	contexts.Require(ctx)
	full, err := fullName(s, kv.OpLock, name)
	if err != nil {
		return nil, err
	}
	o, err := contendOptions(s, opts)
	if err != nil {
		return nil, &kv.Error{Op: kv.OpLock, Store: s.Capabilities().Name, Key: full, Err: err}
	}
	o.Try, o.Shared, o.Slots = how.Try, how.Shared, how.Slots
	return acquire(ctx, s, full, o)
}

// LockAll waits until it holds all the locks called names. Callers that want
// overlapping sets do not block each other for ever, because everybody takes
// them in one order. A name that stands twice is one lock, and without names
// the set is empty. With an error, none is held. Errors: as for Lock.
func LockAll(ctx context.Context, s *kv.Store, names []string, opts ...Option) (Set, error) {
	contexts.Require(ctx)
	if len(names) == 0 {
		// Refused for whatever every call is, without asking the store.
		_, err := s.Txn().Commit(ctx)
		return nil, as(kv.OpLock, err)
	}
	full := make([]string, 0, len(names))
	byFull := make(map[string]string, len(names))
	for _, name := range names {
		f, err := fullName(s, kv.OpLock, name)
		if err != nil {
			return nil, err
		}
		full = append(full, f)
		byFull[f] = name
	}
	slices.Sort(full)
	var set Set
	for _, f := range slices.Compact(full) {
		// One that is lost while another is waited for makes the rest useless.
		h, err := Lock(set.Context(ctx), s, byFull[f], opts...)
		if lost := set.err(); lost != nil {
			err = lost
		}
		if err != nil {
			if h != nil {
				set = append(set, h)
			}
			_ = set.Unlock(ctx) // what did not work is left to the lease's end
			return nil, err
		}
		set = append(set, h)
	}
	return set, nil
}

// Do runs f with the lock called name held, under a context that ends when the
// lock is lost, and unlocks it. The error is f's; if f had none, it tells that
// the lock was lost meanwhile.
func Do(ctx context.Context, s *kv.Store, name string, f func(context.Context, *Held) error, opts ...Option) error {
	h, err := Lock(ctx, s, name, opts...)
	if err != nil {
		return err
	}
	return h.during(ctx, f)
}

func (h *Held) during(ctx context.Context, f func(context.Context, *Held) error) error {
	defer h.Unlock(ctx) // also when f panics
	err := f(h.Context(ctx), h)
	lost := h.Err()
	switch {
	case lost == nil || errors.Is(err, kv.ErrLockLost):
		return err
	case err == nil:
		return lost
	}
	return fmt.Errorf("%w (%w)", err, lost)
}

// Semaphore lets up to a number of holders in at a time. It holds nothing
// itself and needs no closing. Methods are safe for concurrent use.
type Semaphore struct {
	s     *kv.Store
	name  string
	slots int
	opts  []Option
}

// NewSemaphore returns the semaphore called name. All its users must agree on
// slots. It does no I/O; slots under 1 is kv.ErrInvalid from every call.
func NewSemaphore(s *kv.Store, name string, slots int, opts ...Option) *Semaphore {
	return &Semaphore{s: s, name: name, slots: slots, opts: opts}
}

// Acquire waits for a slot: see Lock.
func (m *Semaphore) Acquire(ctx context.Context) (*Held, error) { return m.acquire(ctx, false) }

// TryAcquire takes a slot if one is free, and nobody waits for it, else
// kv.ErrLocked. Errors besides: as for Lock.
func (m *Semaphore) TryAcquire(ctx context.Context) (*Held, error) { return m.acquire(ctx, true) }

func (m *Semaphore) acquire(ctx context.Context, try bool) (*Held, error) {
	if m.slots < 1 {
		full, err := fullName(m.s, kv.OpLock, m.name)
		if err == nil {
			err = fmt.Errorf("%w: a semaphore of %d slots", kv.ErrInvalid, m.slots)
			err = &kv.Error{Op: kv.OpLock, Store: m.s.Capabilities().Name, Key: full, Err: err}
		}
		return nil, err
	}
	return contend(ctx, m.s, m.name, m.opts, backend.ContendOptions{Slots: m.slots, Try: try})
}
