package lock

import (
	"context"
	"errors"
	"iter"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
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
// kv.ErrLockLost when the leadership is lost or was resigned.
func (l *Leadership) Proclaim(ctx context.Context, value string) error {
	if lost := l.Err(); lost != nil {
		return lost // the store may not have noticed yet
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
// again, as soon as f has returned, until f returns as the leader, with its
// error, or ctx ends.
func (e *Election) Lead(ctx context.Context, value string, f func(context.Context, *Leadership) error) error {
	var wait backoff.Backoff
	for {
		l, err := e.Campaign(ctx, value)
		switch {
		case errors.Is(err, kv.ErrLockLost) && wait.Wait(ctx):
			continue // the place in the queue was lost: join at its end
		case err != nil:
			return err
		}
		wait.Reset()
		err = l.during(ctx, func(ctx context.Context, _ *Held) error { return f(ctx, l) })
		if l.Err() == nil || ctx.Err() != nil {
			return err
		}
	}
}

// Leader is who leads.
type Leader struct {
	Value string // as it campaigned or last proclaimed
	Token uint64 // its fencing token
}

func leader(h backend.Holder) Leader { return Leader{Value: string(h.Value), Token: h.Token} }

// Leader returns who leads now, or kv.ErrNotFound if nobody does.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	var now Leader
	err := e.observe(ctx, func(h backend.Holder) bool {
		now = leader(h)
		return false
	})
	if err == nil && now.Token == 0 {
		err = &kv.Error{Op: kv.OpObserve, Store: e.s.Capabilities().Name, Key: e.name, Err: kv.ErrNotFound}
	}
	return now, err
}

// Observe yields who leads, and then each new leader and each proclamation, in
// order, until ctx ends, which ends the sequence with the context's error.
// Times without a leader are passed over. A leader that came and went while
// the store could not be reached may not be seen.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
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
	full, err := e.s.Key(e.name)
	if err != nil {
		return err
	}
	return e.s.Do(ctx, kv.OpObserve, full, func(ctx context.Context) error {
		for h, err := range e.s.Backend().Holders(ctx, full) {
			if err != nil {
				return err
			}
			if !f(h) {
				return nil
			}
		}
		return backend.ContextError(ctx)
	})
}
