package zookeeperkv

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// queue returns the names of all places in order.
func (c *contender) queue(ctx context.Context) ([]place, error) {
	names, _, err := c.s.children(ctx, c.l, c.dir)
	if err != nil {
		return nil, err
	}
	return places(names), nil
}

// place is one name in a queue.
type place struct {
	backend.Place
	name     string
	sequence int32
}

func places(names []string) []place {
	queue := make([]place, 0, len(names))
	for _, name := range names {
		f := strings.SplitN(name, "-", 3) // the sequence may have a sign
		if len(f) < 3 || f[0] == "" {
			continue
		}
		p := place{name: name}
		sequence, err := strconv.ParseInt(f[2], 10, 32)
		if err != nil {
			continue
		}
		p.sequence = int32(sequence)
		switch f[0][0] {
		case 's':
			p.Shared = true
		case 'n':
			if p.Slots, err = strconv.Atoi(f[0][1:]); err != nil {
				continue
			}
		}
		queue = append(queue, p)
	}
	// The server counts in 32 bits and goes on below zero: which of two is the later is told by their distance.
	slices.SortFunc(queue, func(a, b place) int { return int(a.sequence - b.sequence) })
	return queue
}

// position looks where the contender stands. The session sees its own node, and so everything that came before it.
func (c *contender) position(queue []place) (ok bool, wait string, err error) {
	order := make([]backend.Place, len(queue))
	mine := -1
	for i, p := range queue {
		order[i] = p.Place
		if strings.HasSuffix(c.path, "/"+p.name) {
			mine = i
		}
	}
	if mine < 0 {
		return false, "", backend.ErrLockLost
	}
	ok, i := backend.Admitted(order, mine)
	if ok || i < 0 {
		return ok, "", nil
	}
	return false, queue[i].name, nil
}

// Wait implements backend.Contender.
func (c *contender) Wait(ctx context.Context) error {
	var wait backoff.Backoff
	for {
		if err := c.s.usable(); err != nil {
			return err
		}
		c.mu.Lock()
		admitted, over := c.admitted, c.isLost || c.released
		c.mu.Unlock()
		switch {
		case over:
			return backend.ErrLockLost
		case admitted:
			return nil
		}
		err := c.step(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return backend.ContextError(ctx)
		case errors.Is(err, backend.ErrUnavailable):
			wait.Wait(ctx)
		case errors.Is(err, backend.ErrLockLost):
			c.lose()
			if closed := c.s.usable(); closed != nil {
				return closed
			}
			return err
		default:
			return err
		}
	}
}

// step looks at the queue, and waits for the one place that matters.
func (c *contender) step(ctx context.Context) error {
	epoch, _ := c.l.session.now()
	changed := c.l.session.changed()
	queue, err := c.queue(ctx)
	if err != nil {
		return err
	}
	ok, pred, err := c.position(queue)
	if err != nil {
		return err
	}
	if ok {
		c.mu.Lock()
		c.admitted = true
		c.mu.Unlock()
		return nil
	}
	ch, there, err := c.watch(ctx, pred)
	if err != nil || !there {
		return err
	}
	for {
		select {
		case <-ch:
			c.mu.Lock()
			c.predCh = nil
			c.mu.Unlock()
			return nil
		case <-changed:
			if now, up := c.l.session.now(); up && now != epoch {
				return nil
			}
			changed = c.l.session.changed()
		case <-c.lost:
			return backend.ErrLockLost
		case <-c.gone:
			return backend.ErrLockLost
		case <-c.l.done:
			return backend.ErrClosed
		case <-ctx.Done():
			return backend.ContextError(ctx)
		}
	}
}

// watch watches a place, or the whole queue for "": a slot may be freed by any of those ahead. It uses again a watch
// that an earlier Wait left behind.
func (c *contender) watch(ctx context.Context, name string) (ch <-chan zk.Event, there bool, err error) {
	c.mu.Lock()
	if c.predCh != nil && c.pred == name {
		ch = c.predCh
	}
	c.mu.Unlock()
	if ch != nil {
		return ch, true, nil
	}
	if name == "" {
		// The queue is read once more with the watch, so nothing is missed in between.
		type answer struct {
			names []string
			ch    <-chan zk.Event
		}
		a, err := call(ctx, c.l, reads, func(conn *zk.Conn) (answer, error) {
			names, _, ch, err := conn.ChildrenW(c.dir)
			return answer{names, ch}, err
		}, nil)
		if err != nil {
			if errors.Is(err, zk.ErrNoNode) {
				return nil, false, nil
			}
			return nil, false, err
		}
		c.mu.Lock()
		c.pred, c.predCh = name, a.ch
		c.mu.Unlock()
		ok, _, err := c.position(places(a.names))
		return a.ch, !ok, err
	}
	type answer struct {
		there bool
		ch    <-chan zk.Event
	}
	path := join(c.dir, name)
	a, err := call(ctx, c.l, reads, func(conn *zk.Conn) (answer, error) {
		there, _, ch, err := conn.ExistsW(path)
		return answer{there, ch}, err
	}, nil)
	if err != nil {
		return nil, false, err
	}
	c.mu.Lock()
	c.pred, c.predCh = name, a.ch
	c.mu.Unlock()
	return a.ch, a.there, nil
}
