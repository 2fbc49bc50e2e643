package zookeeperkv

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

func (c *contender) prefix() string {
	kind := "x"
	switch {
	case c.place.Shared:
		kind = "s"
	case c.place.Slots > 1:
		kind = "n" + strconv.Itoa(c.place.Slots)
	}
	return c.dir + "/" + kind + "-" + c.guid + "-"
}

// enter makes the node. alone tells that nobody else is in the queue.
func (c *contender) enter(ctx context.Context, value []byte) (alone bool, err error) {
	s := c.s
	ops := []any{
		&zk.CreateRequest{Path: c.prefix(), Data: append([]byte{}, value...), Acl: s.o.ACL, Flags: zk.FlagEphemeralSequential},
		&zk.SetDataRequest{Path: c.dir, Version: -1},
	}
	var wait backoff.Backoff
	for {
		sent := time.Now()
		res, _, err := s.multi(ctx, c.l, ops, c.late)
		switch {
		case err == nil:
			c.path, c.token, c.renewed = res[0].String, res[1].Stat.Mzxid, sent
			return res[1].Stat.NumChildren == 1, nil
		case errors.Is(err, zk.ErrNoNode):
			if err := c.makeDir(ctx); err != nil {
				return false, err
			}
		case ctx.Err() != nil, errors.Is(err, backend.ErrClosed), errors.Is(err, errNoAnswer):
			return false, err // the request may still run, and is undone when it has
		case errors.Is(err, backend.ErrUncertain):
			found, ferr := c.find(ctx)
			if ferr != nil {
				c.undo()
				return false, err
			}
			if found {
				c.renewed = sent
				return false, nil
			}
			if !wait.Wait(ctx) {
				return false, backend.ContextError(ctx)
			}
		default:
			return false, s.locked(err)
		}
	}
}

// makeDir makes the lock's directory, a container where the server knows them: it removes those that have been
// emptied. The sequence starts anew then, tokens do not.
func (c *contender) makeDir(ctx context.Context) error {
	_, err := call(ctx, c.l, writes, func(conn *zk.Conn) (string, error) {
		return conn.CreateContainer(c.dir, nil, zk.FlagContainer, c.s.o.ACL)
	}, nil)
	if err == nil || errors.Is(err, zk.ErrNodeExists) {
		return nil
	}
	if errors.Is(err, errNoAnswer) {
		return unanswered(err)
	}
	if ctx.Err() != nil || errors.Is(err, backend.ErrPermission) || errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrClosed) {
		return c.s.locked(err)
	}
	return c.s.locked(c.s.create(ctx, c.l, c.dir, nil)) // before 3.5.3
}

// find looks for the node after its answer was lost.
func (c *contender) find(ctx context.Context) (bool, error) {
	if err := c.l.sync(ctx, c.dir).wait(ctx, true); err != nil {
		return false, err
	}
	names, _, err := c.s.children(ctx, c.l, c.dir)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if !strings.Contains(name, "-"+c.guid+"-") {
			continue
		}
		path := join(c.dir, name)
		n, err := c.s.exists(ctx, c.l, path)
		if err != nil || !n.exists {
			return false, err
		}
		c.path, c.token = path, n.stat.Czxid
		return true, nil
	}
	return false, nil
}

// late takes the answer to a request for a place whose caller has gone. It runs in the request's own goroutine, which
// the closing of the link waits for.
func (c *contender) late(res []zk.MultiResponse, err error) {
	if err == nil && len(res) > 0 {
		if err = c.l.conn.Delete(res[0].String, -1); err == nil || errors.Is(err, zk.ErrNoNode) {
			return
		}
	}
	if !answered(err) {
		c.undo()
	}
}

// undo removes what a request may have left whose caller has gone, however long that takes: the session that the
// node is bound to lives on.
func (c *contender) undo() {
	c.l.spawn(func() {
		ctx, cancel := c.l.context()
		defer cancel()
		var wait backoff.Backoff
		for ctx.Err() == nil {
			found, err := c.find(ctx)
			if err == nil && (!found || c.remove(ctx) == nil) {
				return
			}
			wait.Wait(ctx)
		}
	})
}

func (c *contender) remove(ctx context.Context) error {
	_, err := call(ctx, c.l, writes, func(conn *zk.Conn) (struct{}, error) { return struct{}{}, conn.Delete(c.path, -1) }, nil)
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	return err
}

// discard removes the node in the background. A delete of a name that never comes back can be repeated safely.
func (c *contender) discard() {
	c.leave.Do(func() {
		ok := c.l.spawn(func() {
			defer close(c.gone)
			ctx, cancel := c.l.context()
			defer cancel()
			var wait backoff.Backoff
			for c.remove(ctx) != nil {
				if !wait.Wait(ctx) {
					return
				}
			}
		})
		if !ok {
			close(c.gone)
		}
	})
}

// left waits for discard.
func (c *contender) left(ctx context.Context) error {
	select {
	case <-c.gone:
		return nil
	default:
	}
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}
