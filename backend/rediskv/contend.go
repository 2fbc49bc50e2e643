package rediskv

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// contenders are those of one Store, and its observers of locks, whom the tail wakes.
type contenders struct {
	mu        sync.Mutex
	byID      map[string]*contender
	observers map[*observer]struct{}
}

// wake is told what a script has said to a contender of this process: "held" or "lost", and its id.
func (cs *contenders) wake(message string) {
	word, id, _ := strings.Cut(message, " ")
	cs.mu.Lock()
	c := cs.byID[id]
	cs.mu.Unlock()
	if c == nil {
		return
	}
	if word == "lost" {
		c.lose()
	}
	c.nudge()
}

// headChanged is told the name of a lock whose holder has changed, or "" if that may be any.
func (cs *contenders) headChanged(name string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for o := range cs.observers {
		if o.name == name || name == "" {
			o.nudge()
		}
	}
}

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

// listenAfter is how long a lock is held before its holder listens for its loss: most locks are held for a moment.
const listenAfter = 300 * time.Millisecond

// Contend implements backend.Store. It is one round trip.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if err := s.checkKey(name); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
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
		if c.held && !c.over {
			c.later = time.AfterFunc(listenAfter, c.listen)
		}
		c.mu.Unlock()
		return c, nil
	case err == nil: // locked
		c.forget()
		return nil, backend.ErrLocked
	case errors.Is(err, backend.ErrUncertain):
		// The request may be on its way still. A release that overtakes it finds nothing, so it is repeated.
		c.forget()
		s.detach(ctx, func(ctx context.Context) {
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

// leave takes the place from the queue. A release that was made already finds nothing, so one whose reply was lost is
// repeated until ctx ends: the others wait for it.
func (c *contender) leave(ctx context.Context) error {
	var wait backoff.Backoff
	for {
		_, err := c.run(ctx, "release")
		switch {
		case !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, backend.ErrUncertain):
			return err
		case !wait.Wait(ctx): // which is not a context of the caller's
			return fmt.Errorf("%w: not released within %v", backend.ErrUnavailable, cleanupTime)
		}
	}
}

// abandon begins to give up the places that are left when the Store closes, in the background: Close waits for the
// cleanups. The caller holds s.mu.
func (s *Store) abandon() {
	s.contenders.mu.Lock()
	defer s.contenders.mu.Unlock()
	for _, c := range s.contenders.byID {
		s.cleanups.Go(func() {
			c.mu.Lock()
			over := c.over
			c.over = true
			c.mu.Unlock()
			if over {
				return
			}
			c.forget()
			ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), cleanup{}, true), cleanupTime)
			defer cancel()
			_ = c.leave(ctx) // or it goes when its lease ends
		})
	}
}

// listen makes the tail tell of the loss of the place, and of its admission.
func (c *contender) listen() {
	c.mu.Lock()
	begin := !c.listening && !c.over
	c.listening = c.listening || begin
	c.mu.Unlock()
	if begin && c.s.tail.listen(c) == nil {
		c.mu.Lock()
		over := c.over
		c.mu.Unlock()
		if over {
			c.s.tail.leave(c)
		}
	}
}

// heard implements listener: what the log tells does not concern locks.
func (c *contender) heard(message) {}

// nudge implements listener. A waiting contender looks; for one that holds and is not told of its loss, somebody has to.
func (c *contender) nudge() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
	c.mu.Lock()
	check := c.held && !c.over
	c.mu.Unlock()
	if check && c.s.enter() {
		go func() {
			defer c.s.calls.Done()
			ctx, cancel := context.WithTimeout(c.s.life, c.s.opt.DialTimeout)
			defer cancel()
			_, _ = c.act(ctx, "look") // closes Lost; a failure is the renewal's to report
		}()
	}
}

// lose notes that the place is gone although nobody released it.
func (c *contender) lose() {
	c.mu.Lock()
	lost := !c.over
	c.over = true
	c.mu.Unlock()
	if lost {
		close(c.lost)
		c.forget()
	}
}

// forget ends what the process has of the place.
func (c *contender) forget() {
	c.s.contenders.mu.Lock()
	delete(c.s.contenders.byID, c.id)
	c.s.contenders.mu.Unlock()
	c.mu.Lock()
	listening := c.listening
	c.listening = false
	if c.later != nil {
		c.later.Stop()
	}
	c.mu.Unlock()
	if listening {
		c.s.tail.leave(c)
	}
}
