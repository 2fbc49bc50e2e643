package consulkv

import (
	"context"
	"io"
	"sync"

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
	return l, nil
}

// leave removes c.
func (l *line) leave(c *contender) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.members, c.entry)
	if len(l.members) == 0 {
		l.cancel()
		if l.s.lines[l.prefix] == l {
			delete(l.s.lines, l.prefix)
		}
	}
}

// guard notices when a member's entry goes.
func (l *line) guard() {
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
		target, from, some := l.admit(q, index)
		if !some {
			return
		}
		l.await(target, from, &wait)
	}
}

// admit admits who may hold, and returns the entry to wait for, at which index,
// for the first member that may not; an empty name is any change of the queue.
// It reports false, and lets the waiting end, if there is none.
func (l *line) admit(q queueState, index uint64) (target string, from uint64, some bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	places := q.places()
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
			from, some = index, true
		default:
			target, from, some = q[wait].name, q[wait].modify, true
		}
	}
	if some {
		return target, from, true
	}
	// Members that wait and are not in the queue were lost, or are newer than
	// the list; the next one looks again.
	for name, c := range l.members {
		if c.waits && q.find(name) < 0 {
			if index >= c.token {
				c.lose()
				c.waits = false
			} else {
				return "", index, true
			}
		}
	}
	l.waiting = false
	return "", 0, false
}

// await returns when the entry has gone, or the queue has changed if target is
// empty. A new value of the entry is no reason.
func (l *line) await(target string, from uint64, wait *backoff.Backoff) {
	if target == "" {
		l.s.pollFrom(l.ctx, l.prefix, true, from, wait, func(io.Reader, uint64) (bool, error) { return false, nil })
		return
	}
	l.s.pollFrom(l.ctx, target, false, from, wait, func(body io.Reader, _ uint64) (bool, error) {
		q, err := scanQueue(body)
		return len(q) > 0, err
	})
}
