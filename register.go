package kv

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keepalive"
)

// Registration is a key that lives as long as its owner: the library renews
// its lease three times in each TTL until Release, until the store closes, or
// until the lease is lost, because the store could not be reached for a TTL,
// or because somebody else deleted or wrote the key. Renewal changes no
// revision and makes no event. Methods are safe for concurrent use.
type Registration[T any] struct {
	r      reader[T]
	full   string
	lease  backend.Lease
	keeper *keepalive.Keeper
	remove func() // takes the hook of Close back

	released atomic.Bool // a release has succeeded

	mu    sync.Mutex
	entry backend.Entry // of the last write that is known
	value T             // of the same
}

// releaseFor bounds the request that Release leaves behind when its context
// ends first, and what Close gives each registration.
const releaseFor = 2 * time.Second

func (r reader[T]) register(ctx context.Context, key string, v T, ttl time.Duration, opts []RegisterOption) (*Registration[T], error) {
	s, c := r.s, r.s.core
	full, err := s.full(OpRegister, key)
	if err != nil {
		return nil, err
	}
	var o registerOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.register(o)
		}
	}
	value, err := encode(r.c, nil, v)
	if err == nil {
		err = c.checkValue(value)
	}
	if err == nil {
		err = c.checkTTL(ttl)
	}
	if err != nil {
		return nil, c.fail(OpRegister, full, err)
	}
	ttl = max(ttl, s.Capabilities().MinLease) // which Portable may have raised
	reg := &Registration[T]{r: r, full: full, value: own(v)}
	sent := time.Now()
	if err := c.do(ctx, OpRegister, full, func(ctx context.Context) (err error) {
		sent = time.Now()
		reg.lease, err = c.b.Register(ctx, full, value, backend.RegisterOptions{TTL: ttl, Absent: o.absent})
		return err
	}); err != nil {
		if reg.lease != nil { // an interceptor turned success into failure
			_ = c.detached(ctx, OpRelease, full, reg.lease.Release) // else it goes with its TTL
		}
		return nil, err
	}
	reg.entry = reg.lease.Entry()
	reg.keeper = keepalive.Start(keepalive.Lease{
		TTL:     reg.lease.TTL(),
		Renewed: sent,
		LostErr: ErrLeaseLost,
		Renew: func(ctx context.Context) error {
			return c.do(ctx, OpRenew, full, reg.lease.Renew)
		},
	})
	reg.remove, err = s.OnClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), releaseFor)
		defer cancel()
		reg.release(ctx)
	})
	if err != nil { // the store closed meanwhile
		reg.keeper.Stop()
		return nil, c.fail(OpRegister, full, err)
	}
	return reg, nil
}

// Done is closed when the key is no longer kept alive: see Err.
func (g *Registration[T]) Done() <-chan struct{} { return g.keeper.Done() }

// Err is nil while the key is kept alive and after Release, and matches
// ErrLeaseLost otherwise.
func (g *Registration[T]) Err() error {
	return g.r.s.core.fail(OpRenew, g.full, g.keeper.Err())
}

// Context returns a context that ends with parent and with the registration,
// with cause ErrLeaseLost if that was lost.
func (g *Registration[T]) Context(parent context.Context) context.Context {
	return g.keeper.Context(parent)
}

// Entry returns the key as this registration last wrote it.
func (g *Registration[T]) Entry() Entry[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.entry
	return Entry[T]{Key: g.r.s.relative(g.full), Value: own(g.value), Revision: e.Revision, Created: e.Created, Expires: e.Expires}
}

// own returns v, or a copy if it is bytes: a slice that was given stays the
// caller's, and one that is returned becomes it (R8).
func own[T any](v T) T {
	if b, ok := any(&v).(*[]byte); ok {
		*b = bytes.Clone(*b)
	}
	return v
}

// Update writes a new value under the same lease. Errors: as for Put, and
// ErrLeaseLost.
func (g *Registration[T]) Update(ctx context.Context, v T) error {
	c := g.r.s.core
	value, err := encode(g.r.c, nil, v)
	if err == nil {
		err = c.checkValue(value)
	}
	if err == nil {
		err = g.keeper.Err()
	}
	if err == nil && c.ctx.Err() != nil {
		err = ErrClosed // drivers may know of the release only
	}
	if err != nil {
		return c.fail(OpUpdate, g.full, err)
	}
	return c.do(ctx, OpUpdate, g.full, func(ctx context.Context) error {
		e, err := g.lease.Set(ctx, value)
		if err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		// Of two that were under way together the later one stands.
		if e.Revision > g.entry.Revision {
			if e.Created == 0 {
				e.Created = g.entry.Created
			}
			g.entry, g.value = e, own(v)
		}
		return nil
	})
}

// Release stops the renewals and deletes the key if it is still the
// registration's. ctx bounds the waiting only: the request is made with an
// ended ctx too, and goes on for two seconds at most. Release is idempotent,
// and nil if the lease was lost before or Close of the store has released it.
// Errors: ErrUncertain, ErrUnavailable, ErrPermission, ErrClosed, the
// context's; the key goes by the end of its lease then.
func (g *Registration[T]) Release(ctx context.Context) error {
	contexts.Require(ctx)
	g.remove()
	return g.release(ctx)
}

func (g *Registration[T]) release(ctx context.Context) error {
	c := g.r.s.core
	g.keeper.Stop()
	err := c.detached(ctx, OpRelease, g.full, func(ctx context.Context) error {
		if err := g.lease.Release(ctx); err != nil && !errors.Is(err, ErrLeaseLost) {
			return err
		}
		g.released.Store(true)
		return nil
	})
	if errors.Is(err, ErrClosed) && g.released.Load() {
		return nil
	}
	return err
}

// detached runs f, which cleans up, beyond the end of ctx: that bounds only how
// long the caller waits. Close waits for f.
func (c *core) detached(ctx context.Context, op Op, key string, f func(context.Context) error) error {
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	done := make(chan error, 1)
	if !c.spawn(func() {
		defer cancel()
		done <- c.do(fctx, op, key, f)
	}) {
		cancel()
		return c.fail(op, key, ErrClosed)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// An ended context must not keep a caller from hearing what is
		// there already.
		select {
		case err := <-done:
			return err
		default:
			return c.fail(op, key, contextError(ctx))
		}
	}
}
