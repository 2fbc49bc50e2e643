package kv

import (
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
	"github.com/polykv/kv/internal/contexts"
)

// Call is what an interceptor learns of an operation.
type Call struct {
	Op    Op
	Key   string // full: with the store's prefix, relative to the driver's root
	Store string // Capabilities.Name
}

// Interceptor runs around every operation, the requests of locks and the
// renewals of leases included: for tracing, metrics, limits and faults. It
// calls next at most once and returns its error, or another. For a List it
// spans the whole iteration, for a Watch its opening.
type Interceptor func(ctx context.Context, c Call, next func(context.Context) error) error

// do runs f as operation op. What does not come through here requires its
// context itself.
func (c *core) do(ctx context.Context, op Op, key string, f func(context.Context) error) error {
	contexts.Require(ctx)
	if c.intercept != nil {
		return c.fail(op, key, c.intercept(ctx, Call{op, key, c.name}, f))
	}
	return c.fail(op, key, f(ctx))
}

// intercepted runs f through the interceptor. Callers test c.intercept first
// and so have no closure on the path without one: it would put the operation's
// result on the heap at every call.
func intercepted[R any](c *core, ctx context.Context, op Op, key string, f func(context.Context) (R, error)) (R, error) {
	var r R
	err := c.intercept(ctx, Call{op, key, c.name}, func(ctx context.Context) (err error) {
		r, err = f(ctx)
		return err
	})
	return r, err
}

// Reads are repeated when the store did not answer, this often and as long as
// the whole takes less than retryFor: a driver that waited for its dial
// timeout in vain is not asked again.
const (
	retryAttempts = 3
	retryFor      = time.Second
)

// retryRead calls f again after err, the error of its first call. Only reads
// may be repeated: a write whose outcome is unknown is the caller's to judge.
func retryRead[R any](ctx context.Context, start time.Time, r R, err error, f func() (R, error)) (R, error) {
	var b backoff.Backoff
	for range retryAttempts - 1 {
		if !errors.Is(err, backend.ErrUnavailable) || time.Since(start) > retryFor || !b.Wait(ctx) {
			break
		}
		r, err = f()
	}
	if err != nil && ctx.Err() != nil {
		err = backend.Because(contextError(ctx), err)
	}
	return r, err
}

// RetryOnConflict calls f until it succeeds, waiting a little longer, with
// jitter, after each ErrConflict or ErrExists, until ctx ends: for a
// read-change-write that spans several keys. For one key there is Modify. Any
// other error of f is returned as it is, ErrUncertain included.
func RetryOnConflict(ctx context.Context, f func(context.Context) error) error {
	contexts.Require(ctx)
	b := backoff.Backoff{Min: time.Millisecond, Max: 250 * time.Millisecond}
	for {
		err := f(ctx)
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
			return err
		}
		if !b.Wait(ctx) {
			return backend.Because(contextError(ctx), err)
		}
	}
}
