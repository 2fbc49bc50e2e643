// Package vote is an election in five short steps: what examples/leader and
// examples/anystore/leader run, the one with goroutines as candidates and the
// other with processes.
package vote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

const (
	work    = "work"    // what the leader writes: its name and token
	refused = "refused" // what a former leader says of a write that came too late
)

// errResigned is why a leader ended its term.
var errResigned = errors.New("resigned")

// Stand stands for election until ctx ends, again after each term. Who leads
// writes what it does, ten times a second. A value from resign ends a term.
func Stand(ctx context.Context, s *kv.Store, name string, lease time.Duration, resign <-chan struct{}) error {
	e := lock.NewElection(s, "leader", lock.Lease(lease))
	for {
		err := e.Lead(ctx, name, func(ctx context.Context, l *lock.Leadership) error {
			return lead(ctx, s, name, l, resign)
		})
		if !errors.Is(err, errResigned) {
			return err
		}
	}
}

// lead is one term. ctx ends with it: do the work of a leader under it.
func lead(ctx context.Context, s *kv.Store, name string, l *lock.Leadership, resign <-chan struct{}) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		// The check makes the store itself refuse the write of a leader that
		// does not know yet that it is none any more.
		_, err := s.Put(ctx, work, fmt.Appendf(nil, "%s %d", name, l.Token()), kv.If(l.Check()))
		if errors.Is(context.Cause(ctx), kv.ErrLockLost) || errors.Is(err, kv.ErrLockLost) {
			return late(context.WithoutCancel(ctx), s, name, l)
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-resign:
			return errResigned
		case <-ctx.Done(): // the next write tells why
		}
	}
}

// late writes as a leader that has not looked at its context would. Its error is
// kv.ErrLockLost when all went as it should: Lead stands again then.
func late(ctx context.Context, s *kv.Store, name string, l *lock.Leadership) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := s.Put(ctx, work, fmt.Appendf(nil, "%s %d", name, l.Token()), kv.If(l.Check()))
	if !errors.Is(err, kv.ErrLockLost) {
		return fmt.Errorf("the late write of %s was not refused: %w", name, err)
	}
	if _, err := s.Put(ctx, refused, fmt.Append(nil, kv.ErrLockLost)); err != nil {
		return err
	}
	return kv.ErrLockLost
}
