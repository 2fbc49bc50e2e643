package lock

import (
	"context"
	"errors"
	"iter"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
	"github.com/polykv/kv/internal/contexts"
)

// Election is a vote for one leader at a time. It holds nothing itself and
// needs no closing. Methods are safe for concurrent use.
type Election struct {
	s    *kv.Store
	name string
	opts []Option
}

// NewElection returns the election called name. It does no I/O.
func NewElection(s *kv.Store, name string, opts ...Option) *Election {
	return &Election{s: s, name: name, opts: opts}
}

// Leadership is a lock whose holder leads.
type Leadership struct{ *Held }

// Proclaim changes the value that observers see. The error matches
// kv.ErrLockLost when the leadership is lost or was resigned. Errors besides:
// kv.ErrTooLarge before any I/O, kv.ErrUncertain, kv.ErrUnavailable,
// kv.ErrPermission, kv.ErrClosed, the context's.
func (l *Leadership) Proclaim(ctx context.Context, value string) error {
	contexts.Require(ctx)
	if lost := l.Err(); lost != nil {
		return lost // the store may not have noticed yet
	}
	if err := checkValue(l.s, []byte(value)); err != nil {
		return l.fail(kv.OpLock, err)
	}
	return l.s.Do(ctx, kv.OpLock, l.name, func(ctx context.Context) error {
		return l.c.Set(ctx, []byte(value))
	})
}

// Resign gives the leadership up: it is Unlock.
func (l *Leadership) Resign(ctx context.Context) error { return l.Unlock(ctx) }

// Campaign waits until it is elected, and shows value to observers from then
// on. Errors: as for Lock.
func (e *Election) Campaign(ctx context.Context, value string) (*Leadership, error) {
	opts := append(e.opts[:len(e.opts):len(e.opts)], Value(value))
	h, err := Lock(ctx, e.s, e.name, opts...)
	if err != nil {
		return nil, err
	}
	return &Leadership{h}, nil
}

// Lead campaigns, runs f while it leads, under a context that ends when the
// leadership is lost, and resigns. When the leadership was lost it campaigns
// again, as soon as f has returned and for as long as the store may be away,
// until f returns as the leader, with its error, or ctx ends. An f that returns
// kv.ErrLockLost because the store has refused it a write has lost the
// leadership, if nobody has told it yet. Errors besides: as for Lock; a store
// that does not answer is one until Lead has had a place in the queue.
func (e *Election) Lead(ctx context.Context, value string, f func(context.Context, *Leadership) error) error {
	var wait backoff.Backoff
	placed := false
	for {
		l, err := e.Campaign(ctx, value)
		if err != nil {
			lost := errors.Is(err, kv.ErrLockLost) // the place in the queue: join at its end
			away := errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain)
			if placed = placed || lost; !lost && !(placed && away) {
				return err
			}
			if !wait.Wait(ctx) {
				return backend.Because(backend.ContextError(ctx), err)
			}
			continue
		}
		placed = true
		wait.Reset()
		lost := false
		err = l.during(ctx, func(ctx context.Context, _ *Held) error {
			err := f(ctx, l)
			lost = errors.Is(err, kv.ErrLockLost) && l.refused(ctx)
			return err
		})
		if !lost && l.Err() == nil {
			return err
		}
		if ended := backend.ContextError(ctx); ended != nil {
			return backend.Because(ended, err)
		}
	}
}

// Leader is who leads.
type Leader struct {
	Value string // as it campaigned or last proclaimed
	Token uint64 // its fencing token
}

func leader(h backend.Holder) Leader { return Leader{Value: string(h.Value), Token: h.Token} }

// Leader returns who leads now, or kv.ErrNotFound if nobody does. A ctx without
// a deadline waits five seconds for a store that does not answer, which then is
// kv.ErrUnavailable. Errors besides: kv.ErrInvalidKey, kv.ErrPermission,
// kv.ErrClosed, the context's.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	contexts.Require(ctx)
	var now Leader
	err := within(ctx, patience(), func(ctx context.Context) error {
		return e.observe(ctx, func(h backend.Holder) bool {
			now = leader(h)
			return false
		})
	})
	if err == nil && now.Token == 0 {
		err = noLeader{}
	}
	var wrapped *kv.Error
	if err != nil && !errors.As(err, &wrapped) {
		full, _ := e.s.Key(e.name) // which was good enough to ask
		err = &kv.Error{Op: kv.OpObserve, Store: e.s.Capabilities().Name, Key: full, Err: err}
	}
	return now, err
}

// noLeader is kv.ErrNotFound without talking of a key.
type noLeader struct{}

func (noLeader) Error() string { return "nobody leads" }
func (noLeader) Unwrap() error { return kv.ErrNotFound }

// Observe yields who leads, and then new leaders and proclamations, in order,
// until ctx ends, which ends the sequence with the context's error, or the
// store closes: kv.ErrClosed, at once. It shows a state and not a history: the
// latest one always comes, and of those that follow each other fast, or while
// the store cannot be reached, some may not be seen. Times without a leader are passed over.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	contexts.Require(ctx)
	return func(yield func(Leader, error) bool) {
		var last Leader
		stopped := false
		grows := e.s.Capabilities().DurableFence
		err := e.observe(ctx, func(h backend.Holder) bool {
			now := leader(h)
			// A smaller token is that of an earlier leader, as a server that
			// lags behind the last one asked still has it.
			if now.Token == 0 || now == last || grows && now.Token < last.Token {
				return true
			}
			last = now
			stopped = !yield(now, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(Leader{}, err)
		}
	}
}

// observe gives f the holder and each change until f returns false.
func (e *Election) observe(ctx context.Context, f func(backend.Holder) bool) error {
	full, err := fullName(e.s, kv.OpObserve, e.name)
	if err != nil {
		return err
	}
	return e.s.Do(ctx, kv.OpObserve, full, func(ctx context.Context) error {
		// The store's Close first gives its locks back, for which it waits while
		// the server is away. Nobody has to observe that long.
		life, end := context.WithCancel(ctx)
		defer end()
		remove, err := e.s.OnClose(end)
		if err != nil {
			return kv.ErrClosed
		}
		defer remove()
		for h, err := range e.s.Backend().Holders(life, full) {
			if err != nil {
				return err
			}
			if !f(h) {
				return nil
			}
		}
		if life.Err() != nil && ctx.Err() == nil {
			return kv.ErrClosed
		}
		return backend.ContextError(ctx)
	})
}
