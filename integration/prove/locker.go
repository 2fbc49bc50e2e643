package prove

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// A register is a key that is written by holders of a lock only, each write under the condition that the lock is still
// held. What a former holder writes must be refused once somebody else has written.
type register struct {
	key, lock string
	h         *history

	mu      sync.Mutex
	holders map[*lock.Held]bool
	writes  []fenced
	holds   []hold
	values  int
	refused int // writes of former holders
}

// hold is a lock that was given.
type hold struct {
	token         uint64
	call, granted int64 // when it was asked for, and when it was given
}

// fenced is a write that was accepted.
type fenced struct {
	rev   kv.Revision
	token uint64
}

// overlap is how long a holder may believe in a lock that somebody else has been given: its timer is on this machine, too,
// and has to be scheduled.
const overlap = time.Second

// contend takes the lock again and again and writes the register, until ctx ends.
func (r *register) contend(ctx context.Context, l *link, rng *rand.Rand) {
	for ctx.Err() == nil {
		waiting, cancel := context.WithTimeout(ctx, 5*time.Second)
		call := r.h.now()
		h, err := lock.Lock(waiting, l.Store, r.lock, lock.Lease(time.Second))
		cancel()
		if err != nil {
			r.unexpected("lock", err)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		r.admitted(h, call)
		for range 1 + rng.IntN(4) {
			r.write(ctx, l, h)
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		}
		r.left(h)
		releasing, cancel := context.WithTimeout(ctx, 2*time.Second)
		if err := h.Unlock(releasing); err != nil {
			r.unexpected("unlock", err)
		} else if rng.IntN(2) == 0 {
			r.writeLate(ctx, l, h)
		}
		cancel()
	}
}

func (r *register) unexpected(what string, err error) {
	switch {
	case errors.Is(err, kv.ErrUnavailable), errors.Is(err, kv.ErrUncertain), errors.Is(err, kv.ErrLockLost),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
	default:
		r.h.fail("%s: %v", what, err)
	}
}

// admitted notes a new holder and sees to it that no other believes that it holds.
func (r *register) admitted(h *lock.Held, call int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds = append(r.holds, hold{h.Token(), call, r.h.now()})
	for other := range r.holders {
		select {
		case <-other.Done():
			continue
		case <-h.Done():
			continue // this one has lost it meanwhile
		default:
		}
		if !endsWithin(overlap, other.Done(), h.Done()) {
			r.h.fail("two hold one lock: tokens %d and %d", other.Token(), h.Token())
		}
	}
	if r.holders == nil {
		r.holders = map[*lock.Held]bool{}
	}
	r.holders[h] = true
}

// endsWithin reports whether one of two ends within d. It waits in steps, of which a machine that stands still takes one, however
// long that is: what ends meanwhile is seen.
func endsWithin(d time.Duration, one, other <-chan struct{}) bool {
	const steps = 50
	for range steps {
		select {
		case <-one:
			return true
		case <-other:
			return true
		case <-time.After(d / steps):
		}
	}
	select {
	case <-one:
	case <-other:
	default:
		return false
	}
	return true
}

func (r *register) left(h *lock.Held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.holders, h)
}

// write is one of a holder, or of one that believes to be.
func (r *register) write(ctx context.Context, l *link, h *lock.Held) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	e, err := l.Put(ctx, r.key, r.value(h), kv.If(h.Check()))
	switch {
	case err == nil:
		r.accepted(e.Revision, h.Token())
	case errors.Is(err, kv.ErrLockLost):
		r.mu.Lock()
		r.refused++
		r.mu.Unlock()
	default:
		r.unexpected("a fenced write", err)
	}
}

// writeLate is a write after the lock was given up, which the store has to refuse.
func (r *register) writeLate(ctx context.Context, l *link, h *lock.Held) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := l.Put(ctx, r.key, r.value(h), kv.If(h.Check()))
	switch {
	case err == nil:
		r.h.fail("a write with token %d was accepted after the lock had been given up", h.Token())
	case errors.Is(err, kv.ErrLockLost):
		r.mu.Lock()
		r.refused++
		r.mu.Unlock()
	default:
		r.unexpected("a late write", err)
	}
}

// value names the token, and is written once.
func (r *register) value(h *lock.Held) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return fmt.Appendf(nil, "%d/%d", h.Token(), r.values)
}

func (r *register) accepted(rev kv.Revision, token uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, fenced{rev, token})
}

// tokensGrow checks that who asked for the lock after another had been given it has a higher token (R31).
func tokensGrow(holds []hold) error {
	holds = slices.Clone(holds)
	slices.SortFunc(holds, func(a, b hold) int { return cmp.Compare(a.token, b.token) })
	first := hold{granted: notYet} // of those with a higher token
	for i := len(holds) - 1; i >= 0; i-- {
		h := holds[i]
		if i+1 < len(holds) && holds[i+1].token == h.token {
			return fmt.Errorf("the lock was given twice with token %d", h.token)
		}
		if first.granted < h.call {
			return fmt.Errorf("the lock was given with token %d, and then to one who asked later with token %d", first.token, h.token)
		}
		if h.granted < first.granted {
			first = h
		}
	}
	return nil
}

// fencedInOrder checks that no write was accepted from a former holder: in the order of revisions tokens do not go back.
func fencedInOrder(writes []fenced) error {
	writes = slices.Clone(writes)
	slices.SortFunc(writes, func(a, b fenced) int { return cmp.Compare(a.rev, b.rev) })
	for i := 1; i < len(writes); i++ {
		if writes[i].token < writes[i-1].token {
			return fmt.Errorf("a write with token %d was accepted at revision %d, after one with token %d at %d",
				writes[i].token, writes[i].rev, writes[i-1].token, writes[i-1].rev)
		}
	}
	return nil
}
