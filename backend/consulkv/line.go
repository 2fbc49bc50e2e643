package consulkv

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// line is this Store's side of one lock's queue: all of its contenders, so that
// they share connections, of which the agent accepts 200 from one address.
//
// One held read covers the contenders' own entries and notices when one goes.
// While some wait, a second one waits for the entry that the first of them
// waits for; no other contender's coming or going wakes it. Those behind cannot
// be admitted before the first.
type line struct {
	s      *Store
	prefix string
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	members map[string]*contender // by native name
	waiting bool                  // a goroutine waits for the first of them
	joined  bool                  // somebody joined since it last read the queue
	front   uint64                // the token of the one that it waits for
	look    context.CancelFunc    // makes it read the queue again; nil while it does
}

// join adds c to the line of its lock. The line lasts while it has members.
func (s *Store) join(c *contender, prefix string, waits bool) (*line, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, backend.ErrClosed
	}
	l := s.lines[prefix]
	if l == nil {
		l = &line{s: s, prefix: prefix, members: map[string]*contender{}}
		l.ctx, l.cancel = context.WithCancel(s.ctx)
		s.lines[prefix] = l
		s.wg.Go(l.guard)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.waits = waits
	l.members[c.entry] = c
	if waits && !l.waiting {
		l.waiting = true
		s.wg.Go(l.wait)
	}
	// Members need not join in the order of the queue: one that comes late may
	// be ahead of the one that is waited for.
	l.joined = l.joined || waits
	if waits && l.look != nil && c.token < l.front {
		l.look()
	}
	return l, nil
}

// leave removes c.
func (l *line) leave(c *contender) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.members, c.entry)
	// Who was behind it may not be behind the entry that it waited for: a
	// reader behind a writer that gives up, say.
	if c.waits && l.look != nil && c.token == l.front {
		l.look()
	}
	if len(l.members) == 0 {
		l.cancel()
		if l.s.lines[l.prefix] == l {
			delete(l.s.lines, l.prefix)
		}
	}
}

// guardDelay is how long a line exists before its members' entries are watched. Most locks are held for less, and are spared
// the read.
const guardDelay = 20 * time.Millisecond

// guard notices when a member's entry goes.
func (l *line) guard() {
	t := time.NewTimer(guardDelay)
	select {
	case <-t.C:
	case <-l.ctx.Done():
		t.Stop()
		return
	}
	own := l.prefix + l.s.id + "-"
	var wait backoff.Backoff
	for l.ctx.Err() == nil {
		// An error other than the end of ctx is a right that was taken away;
		// then the sessions' renewal tells.
		l.s.poll(l.ctx, own, true, &wait, func(body io.Reader, index uint64) (bool, error) {
			there := map[string]bool{}
			q, err := scanQueue(body)
			if err != nil {
				return false, err
			}
			for _, e := range q {
				there[e.name] = true
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			for name, c := range l.members {
				// A list that is older than the entry does not have it yet.
				if !there[name] && index >= c.token {
					c.lose()
				}
			}
			return true, nil
		})
		if !wait.Wait(l.ctx) {
			return
		}
	}
}

// wait admits members, until none of them waits.
func (l *line) wait() {
	var wait backoff.Backoff
	for {
		l.mu.Lock()
		l.joined = false
		l.mu.Unlock()
		q, index, err := l.s.readQueue(l.ctx, l.prefix)
		if l.ctx.Err() != nil {
			return
		}
		if err != nil {
			if !wait.Wait(l.ctx) {
				return
			}
			continue
		}
		wait.Reset()
		ctx, stop := context.WithCancel(l.ctx)
		target, from, next := l.admit(q, index, stop)
		if next == awaitTarget {
			l.await(ctx, target, from, &wait)
			l.mu.Lock()
			l.look = nil
			l.mu.Unlock()
		}
		stop()
		if next == nobodyWaits {
			return
		}
	}
}

// what wait has to do next
type next uint8

const (
	nobodyWaits next = iota
	awaitTarget
	lookAgain
)

// admit admits who may hold, and returns the entry to wait for, at which index,
// for the first member that may not; an empty name is any change of the queue.
func (l *line) admit(q queueState, index uint64, look context.CancelFunc) (target string, from uint64, _ next) {
	l.mu.Lock()
	defer l.mu.Unlock()
	places := q.places()
	some := false
	for i, e := range q {
		c := l.members[e.name]
		if c == nil || !c.waits {
			continue
		}
		ok, wait := backend.Admitted(places, i)
		switch {
		case ok:
			c.waits = false
			close(c.admitted)
		case some: // behind the first
		case wait < 0:
			from, some, l.front = index, true, e.create
		default:
			target, from, some, l.front = q[wait].name, q[wait].modify, true, e.create
		}
	}
	for name, c := range l.members {
		// Who waits and is not in the queue was lost, unless the queue was
		// read before it came.
		if c.waits && q.find(name) < 0 && index >= c.token {
			c.waits = false
			c.lose()
		}
	}
	switch {
	case l.joined:
		return "", 0, lookAgain
	case some:
		l.look = look
		return target, from, awaitTarget
	}
	l.waiting = false
	return "", 0, nobodyWaits
}

// await returns when the entry has gone, or the queue has changed if target is
// empty, or ctx ends. A new value of the entry is no reason.
func (l *line) await(ctx context.Context, target string, from uint64, wait *backoff.Backoff) {
	if target == "" {
		// A read whose time was up tells of nothing.
		l.s.pollFrom(ctx, l.prefix, true, from, wait, func(_ io.Reader, index uint64) (bool, error) { return index == from, nil })
		return
	}
	l.s.pollFrom(ctx, target, false, from, wait, func(body io.Reader, _ uint64) (bool, error) {
		q, err := scanQueue(body)
		return len(q) > 0, err
	})
}
