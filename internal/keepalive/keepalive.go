// Package keepalive renews a lease until it is given up or lost: the one loop
// behind registered keys and held locks.
package keepalive

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
	"github.com/polykv/kv/internal/contexts"
)

// Lease is what a Keeper keeps.
type Lease struct {
	TTL     time.Duration               // how long the lease outlives its last renewal
	Renewed time.Time                   // when the last renewal that succeeded was sent
	Renew   func(context.Context) error // renews; an error that matches LostErr is final
	LostErr error                       // the sentinel of a loss: backend.ErrLockLost, backend.ErrLeaseLost
	Lost    <-chan struct{}             // closed by the driver when it learns of the loss; nil: it does not tell
}

// Keeper renews one lease. Its methods are safe for concurrent use.
type Keeper struct {
	lease  Lease
	cancel context.CancelFunc // ends the loop
	exited chan struct{}

	mu       sync.Mutex
	deadline *time.Timer
	done     chan struct{}
	ended    bool
	err      error
	contexts map[*context.CancelCauseFunc]struct{}
}

// Start begins to renew l, three times in each TTL. The holder is told of the
// loss (Done, Err, contexts) no later than TTL after the last renewal that
// succeeded was sent, whatever becomes of requests under way, because the
// store counts from when it received that renewal (R32).
func Start(l Lease) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{
		lease:    l,
		cancel:   cancel,
		exited:   make(chan struct{}),
		done:     make(chan struct{}),
		contexts: map[*context.CancelCauseFunc]struct{}{},
	}
	k.mu.Lock()
	k.deadline = time.AfterFunc(time.Until(k.ends(l.Renewed)), k.expire)
	k.mu.Unlock()
	go k.run(ctx)
	return k
}

// ends is when a holder whose last renewal was sent then is told of the loss. A
// sixty-fourth of the TTL stands between that and the time at which the store
// may let somebody else in, so that on a machine that runs, the one knows
// before the other has it.
func (k *Keeper) ends(renewed time.Time) time.Time {
	return renewed.Add(k.lease.TTL - k.lease.TTL/64)
}

func (k *Keeper) run(ctx context.Context) {
	defer close(k.exited)
	renewed := k.lease.Renewed
	var b backoff.Backoff
	for {
		wait := time.Until(renewed.Add(k.lease.TTL / 3))
		if b.Attempts() > 0 {
			wait = b.Next()
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-k.done: // the deadline passed
			t.Stop()
			return
		case <-k.lease.Lost:
			t.Stop()
			k.end(k.lease.LostErr)
			return
		case <-t.C:
		}
		sent := time.Now()
		err := k.renew(ctx, k.ends(renewed))
		switch {
		case err == nil:
			renewed = sent
			b.Reset()
			k.extend(k.ends(sent))
		case errors.Is(err, k.lease.LostErr):
			k.end(err)
			return
		case b.Attempts() == 0:
			b = backoff.Backoff{Max: k.lease.TTL / 10}
			b.Next()
		}
	}
}

// renew bounds one attempt by the lease's end, and by half of what is left, so
// that a request that hangs leaves time for another. It does not keep the holder
// from being told of a loss.
func (k *Keeper) renew(ctx context.Context, deadline time.Time) error {
	left := time.Until(deadline)
	ctx, cancel := context.WithTimeout(ctx, max(left/2, time.Millisecond))
	defer cancel()
	if k.lease.Lost == nil {
		return k.lease.Renew(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- k.lease.Renew(ctx) }()
	select {
	case err := <-done:
		return err
	case <-k.lease.Lost:
		k.end(k.lease.LostErr) // which ends ctx too
		<-done
		return k.lease.LostErr
	}
}

func (k *Keeper) extend(deadline time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.ended {
		k.deadline.Reset(time.Until(deadline))
	}
}

func (k *Keeper) expire() { k.end(backend.Because(k.lease.LostErr, errExpired)) }

var errExpired = errors.New("not renewed in time")

// end tells everybody, once. A nil err is an end that was wanted.
func (k *Keeper) end(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return
	}
	k.ended, k.err = true, err
	k.deadline.Stop()
	cause := err
	if cause == nil {
		cause = context.Canceled
	}
	for cancel := range k.contexts {
		(*cancel)(cause)
	}
	clear(k.contexts)
	close(k.done)
	k.cancel()
}

// Stop ends the renewals, because the lease is given up, and waits for the one
// under way. It is idempotent.
func (k *Keeper) Stop() {
	k.end(nil)
	<-k.exited
}

// Done is closed when the lease was lost or given up.
func (k *Keeper) Done() <-chan struct{} { return k.done }

// Err is nil while the lease lives and after Stop, and the loss otherwise.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Context returns a context that ends with parent and with the lease, in the
// second case with the loss as its cause.
func (k *Keeper) Context(parent context.Context) context.Context {
	contexts.Require(parent)
	ctx, cancel := context.WithCancelCause(parent)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		cause := k.err
		if cause == nil {
			cause = context.Canceled
		}
		cancel(cause)
		return ctx
	}
	k.contexts[&cancel] = struct{}{}
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.contexts, &cancel)
	})
	return ctx
}
