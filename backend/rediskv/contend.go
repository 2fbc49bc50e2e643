package rediskv

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// contender is one place in a lock's queue. See lua/lock.lua.
type contender struct {
	s     *Store
	name  string
	id    string
	lease time.Duration
	woken chan struct{}
	lost  chan struct{}

	mu        sync.Mutex
	token     uint64
	held      bool
	over      bool // lost or released
	released  <-chan struct{}
	err       error // of the release
	renewed   time.Time
	listening bool
	later     *time.Timer // begins to listen
}

// Contend implements backend.Store. It is one round trip.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if err := s.checkSize(name, o.Value); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if !s.reserve() {
		return nil, backend.ErrClosed
	}
	defer s.cleanups.Done()
	c := &contender{
		s: s, name: name, id: rand.Text(), lease: max(o.Lease, s.caps.MinLease),
		woken: make(chan struct{}, 1), lost: make(chan struct{}), renewed: time.Now(),
	}
	s.contenders.mu.Lock()
	s.contenders.byID[c.id] = c
	s.contenders.mu.Unlock()
	value := bytes.Clone(o.Value)
	if value == nil {
		value = []byte{}
	}
	st, err := c.run(ctx, "contend", flag(o.Shared), max(o.Slots, 1), milliseconds(c.lease), s.self, value, flag(o.Try))
	switch {
	case err == nil && st.word == "ok":
		c.mu.Lock()
		c.token, c.held = st.token, st.held
		closed := s.life.Err() != nil && !c.over // abandon has not seen the token
		switch {
		case closed:
			c.over = true
		case c.held && !c.over:
			c.later = time.AfterFunc(listenAfter, c.listen)
		}
		c.mu.Unlock()
		if closed {
			c.forget()
			s.cleanUp(ctx, func(ctx context.Context) { _ = c.leave(ctx) })
			return nil, backend.ErrClosed
		}
		return c, nil
	case err == nil: // locked
		c.forget()
		return nil, backend.ErrLocked
	case errors.Is(err, backend.ErrUncertain):
		// The request may be on its way still. A release that overtakes it finds nothing, so it is repeated.
		c.forget()
		s.cleanUp(ctx, func(ctx context.Context) {
			wait := backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
			for {
				st, err := c.run(ctx, "release")
				if err == nil && st.word == "ok" || !wait.Wait(ctx) {
					return
				}
			}
		})
	default:
		c.forget()
	}
	return nil, err
}

// state is what the script says of a contender.
type state struct {
	word  string // ok, lost, locked
	token uint64
	held  bool
	again time.Duration // until something changes without a message
}

func (c *contender) run(ctx context.Context, action string, more ...any) (state, error) {
	n := c.s.names.lock(c.name)
	names, args := c.s.frame(3)
	names = append(names, n.queue, n.contenders, n.deadlines)
	args = append(args, c.s.knownEpoch(), c.s.names.wakes, c.s.names.heads, c.name, c.id, action)
	reply, err := c.s.runWrite(ctx, c.s.scripts.lock, names, append(args, more...)...)
	if err != nil {
		return state{}, err
	}
	st := state{word: status(reply)}
	if st.word != "ok" {
		return st, nil
	}
	if len(reply) != 4 {
		return st, fmt.Errorf("%w: answer to a contender", backend.ErrCorrupt)
	}
	st.token, err = strconv.ParseUint(text(reply[1]), 10, 64)
	if err != nil {
		return st, fmt.Errorf("%w: a fencing token", backend.ErrCorrupt)
	}
	st.held, st.again = number(reply[2]) == 1, time.Duration(number(reply[3]))*time.Millisecond
	return st, nil
}

// act runs action on a place that is thought to be there.
func (c *contender) act(ctx context.Context, action string, more ...any) (state, error) {
	if err := c.gone(); err != nil {
		return state{}, err
	}
	st, err := c.run(ctx, action, more...)
	if err != nil {
		return st, err
	}
	if st.word != "ok" {
		c.lose()
		return st, backend.ErrLockLost
	}
	c.mu.Lock()
	c.held = st.held
	c.mu.Unlock()
	return st, c.gone()
}

func (c *contender) gone() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.s.life.Err() != nil:
		return backend.ErrClosed
	case c.over:
		return backend.ErrLockLost
	}
	return nil
}

// Wait implements backend.Contender. A waiting contender looks when it is told that it may hold, and when the lease of
// the one ahead has run out.
func (c *contender) Wait(ctx context.Context) error {
	var wait backoff.Backoff
	for first := true; ; first = false {
		if err := c.gone(); err != nil {
			return err
		}
		c.mu.Lock()
		held := c.held
		c.mu.Unlock()
		if held {
			return nil
		}
		if err := backend.ContextError(ctx); err != nil {
			return err
		}
		if first {
			c.listen()
		}
		st, err := c.act(ctx, "look")
		switch {
		case errors.Is(err, backend.ErrUnavailable), errors.Is(err, backend.ErrUncertain) && ctx.Err() == nil:
			st.again = wait.Next()
		case err != nil && ctx.Err() != nil:
			return backend.ContextError(ctx)
		case err != nil:
			return err
		case st.held:
			return nil
		default:
			wait.Reset()
		}
		timer := time.NewTimer(st.again)
		select {
		case <-timer.C:
		case <-c.woken:
		case <-c.lost:
		case <-c.s.life.Done():
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (c *contender) Token() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *contender) Check() backend.Check {
	return backend.Check{If: backend.LockHeld, Key: c.name, Holder: c.id}
}

func (c *contender) Lease() time.Duration { return c.lease }

func (c *contender) Renewed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

func (c *contender) Renew(ctx context.Context) error {
	sent := time.Now()
	_, err := c.act(ctx, "renew")
	if err == nil {
		c.mu.Lock()
		if sent.After(c.renewed) {
			c.renewed = sent
		}
		c.mu.Unlock()
	}
	return err
}

func (c *contender) Set(ctx context.Context, value []byte) error {
	if err := c.s.checkSize(c.name, value); err != nil {
		return err
	}
	value = bytes.Clone(value)
	if value == nil {
		value = []byte{}
	}
	_, err := c.act(ctx, "set", value)
	return err
}

func (c *contender) Lost() <-chan struct{} { return c.lost }

func (c *contender) Release(ctx context.Context) error {
	c.mu.Lock()
	if c.over && c.released == nil { // lost
		c.mu.Unlock()
		return nil
	}
	if c.released == nil {
		released := c.s.detach(ctx, func(ctx context.Context) {
			c.forget()
			err := c.leave(ctx)
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
		})
		if released == nil {
			c.mu.Unlock()
			return backend.ErrClosed // Close gives the place up, if it has not
		}
		c.over, c.released = true, released
	}
	released := c.released
	c.mu.Unlock()
	select {
	case <-released:
	case <-ctx.Done():
		select {
		case <-released:
		default:
			return backend.ContextError(ctx)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// leave takes the place from the queue: the others wait for it.
func (c *contender) leave(ctx context.Context) error {
	return repeat(ctx, func() error {
		_, err := c.run(ctx, "release")
		return err
	})
}

// repeat makes a release until it is answered or ctx ends: one that was made already finds nothing.
func repeat(ctx context.Context, release func() error) error {
	var wait backoff.Backoff
	for {
		err := release()
		switch {
		case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, backend.ErrUncertain):
			return err
		case !wait.Wait(ctx): // which is not a context of the caller's
			return fmt.Errorf("%w: not released within %v", backend.ErrUnavailable, cleanupTime)
		}
	}
}

// abandon begins to give up the places that are left when the Store closes, in the background: Close waits for the
// cleanups. One that is only asked for is Contend's to give up, which knows whether it is there. The caller holds s.mu.
func (s *Store) abandon() {
	s.contenders.mu.Lock()
	defer s.contenders.mu.Unlock()
	for _, c := range s.contenders.byID {
		s.cleanups.Go(func() {
			c.mu.Lock()
			there := !c.over && c.token != 0
			c.over = c.over || there
			c.mu.Unlock()
			if !there {
				return
			}
			c.forget()
			ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), cleanup{}, true), cleanupTime)
			defer cancel()
			_ = c.leave(ctx) // or it goes when its lease ends
		})
	}
}
