package rediskv

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Redis hides an expired key from everybody by itself, to the millisecond. What it does not do is tell: the delete event
// and the end of the record are made by the first client that finds them due. Every client that watches, or that has
// written a key with a TTL, looks when the next key is due, a little apart from the others.

// reaperJitter spreads the clients, and is part of TTLSlack.
const reaperJitter = 200 * time.Millisecond

type reaper struct {
	s     *Store
	mu    sync.Mutex
	timer *time.Timer // nil until the first key with a TTL
	at    time.Time   // when the timer fires; zero if it does not
	retry backoff.Backoff
}

// expiresIn notes that a key expires in d.
func (r *reaper) expiresIn(d time.Duration) {
	d += time.Millisecond + rand.N(reaperJitter)
	at := time.Now().Add(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || at.Before(r.at) {
		r.set(at, d)
	}
}

func (r *reaper) set(at time.Time, d time.Duration) {
	r.at = at
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.fire)
	} else {
		r.timer.Reset(d)
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}

func (r *reaper) fire() {
	if !r.s.enter() {
		return
	}
	defer r.s.calls.Done()
	r.mu.Lock()
	r.at = time.Time{}
	r.mu.Unlock()
	if _, err := r.s.reap(r.s.life); err != nil {
		r.mu.Lock()
		wait := r.retry.Next()
		r.mu.Unlock()
		r.expiresIn(wait)
		return
	}
	r.mu.Lock()
	r.retry.Reset()
	r.mu.Unlock()
}

// reap makes the delete events that are due, and sets the timer for those to come. It returns the state of the log.
func (s *Store) reap(ctx context.Context) (heartbeat, error) {
	for {
		p, err := s.pulse(ctx)
		if err != nil {
			return p, err
		}
		if len(p.expired) == 0 || s.namespace().readOnly {
			if p.next >= 0 {
				s.reaper.expiresIn(p.next)
			}
			return p, nil
		}
		n, err := s.settleDue(ctx, p.expired)
		if err != nil {
			return p, err
		}
		if n == 0 { // others were faster, or the server does not expire keys at the moment
			s.reaper.expiresIn(time.Second)
			return p, nil
		}
	}
}

// heartbeat is what lua/pulse.lua answers.
type heartbeat struct {
	epoch   string // "": the bookkeeping is gone
	log     string
	next    time.Duration // until the next key expires, negative if none will
	expired []string
}

func (s *Store) pulse(ctx context.Context) (heartbeat, error) {
	reply, err := s.runRead(ctx, s.scripts.pulse, []string{s.names.head, s.names.expiries}, schema)
	if err != nil {
		return heartbeat{}, err
	}
	if status(reply) == "none" {
		return heartbeat{next: -1}, nil
	}
	if len(reply) < 4 {
		return heartbeat{}, backend.ErrCorrupt
	}
	p := heartbeat{epoch: text(reply[1]), log: text(reply[2]), next: -1}
	if ms := number(reply[3]); ms >= 0 {
		p.next = time.Duration(ms) * time.Millisecond
	}
	for _, key := range reply[4:] {
		p.expired = append(p.expired, text(key))
	}
	return p, nil
}
