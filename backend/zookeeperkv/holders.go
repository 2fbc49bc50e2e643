package zookeeperkv

import (
	"bytes"
	"context"
	"errors"
	"iter"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Holders implements backend.Store. It watches the node at the head of the queue, and the queue only while it is
// empty, so that those who come to wait wake nobody.
func (s *Store) Holders(ctx context.Context, name string) iter.Seq2[backend.Holder, error] {
	return func(yield func(backend.Holder, error) bool) {
		// What it waits for ends as Close begins: the link lives until all places are given back.
		life, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.life, cancel)()
		left := false
		err := s.observe(life, name, func(h backend.Holder) bool {
			left = !yield(h, nil)
			return !left
		})
		switch {
		case left || ctx.Err() != nil:
		case s.life.Err() != nil:
			yield(backend.Holder{}, backend.ErrClosed)
		default:
			yield(backend.Holder{}, err)
		}
	}
}

// observe gives tell each head of a queue until tell returns false, ctx ends, or an error is final.
func (s *Store) observe(ctx context.Context, name string, tell func(backend.Holder) bool) error {
	if _, err := s.path(name); err != nil {
		return err
	}
	var last *backend.Holder
	var wait backoff.Backoff
	for ctx.Err() == nil {
		// The first look sets no watch: who wants to know no more than that leaves none behind.
		h, woken, err := s.atHead(ctx, s.lockDir(name), last != nil)
		switch {
		case err == nil:
			wait.Reset()
		case errors.Is(err, backend.ErrUnavailable), errors.Is(err, errAgain):
			wait.Wait(ctx)
			continue
		default:
			return err
		}
		if last == nil || last.Token != h.Token || !bytes.Equal(last.Value, h.Value) {
			last = &backend.Holder{Token: h.Token, Value: bytes.Clone(h.Value)}
			if !tell(h) {
				return nil
			}
			if woken == nil {
				continue
			}
		}
		if err := woken(); err != nil {
			return err
		}
	}
	return backend.ContextError(ctx)
}

// errAgain says that the head of the queue left while it was looked at.
var errAgain = errors.New("the queue has changed")

// atHead returns who is at the head of a queue and, with watch, a function that waits for a change.
func (s *Store) atHead(ctx context.Context, dir string, watch bool) (h backend.Holder, woken func() error, err error) {
	l := s.link
	epoch, _ := l.session.now()
	changed := l.session.changed()
	if !watch {
		if err := l.sync(ctx, dir).wait(ctx, true); err != nil {
			return h, nil, err
		}
	}
	names, there, err := s.children(ctx, l, dir)
	if err != nil {
		return h, nil, err
	}
	var fired <-chan zk.Event
	if queue := places(names); len(queue) > 0 {
		type answer struct {
			n  node
			ch <-chan zk.Event
		}
		path := join(dir, queue[0].name)
		a, err := call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
			var ch <-chan zk.Event
			var err error
			var data []byte
			var stat *zk.Stat
			if watch {
				data, stat, ch, err = c.GetW(path)
			} else {
				data, stat, err = c.Get(path)
			}
			if err != nil {
				return answer{}, err
			}
			return answer{node{data: data, stat: *stat}, ch}, nil
		}, nil)
		if errors.Is(err, zk.ErrNoNode) {
			return h, nil, errAgain
		}
		if err != nil {
			return h, nil, err
		}
		h = backend.Holder{Value: a.n.data, Token: uint64(a.n.stat.Czxid)}
		if fired = a.ch; !watch {
			return h, nil, nil
		}
	} else if !watch {
		return h, nil, nil
	} else if fired, err = s.empty(ctx, dir, there); err != nil {
		return h, nil, err
	}
	return h, func() error {
		for {
			select {
			case <-fired:
				return nil
			case <-changed:
				if now, up := l.session.now(); up && now != epoch {
					return nil
				}
				changed = l.session.changed()
			case <-ctx.Done():
				return nil
			case <-l.done:
				return backend.ErrClosed
			}
		}
	}, nil
}

// empty watches an empty queue.
func (s *Store) empty(ctx context.Context, dir string, there bool) (<-chan zk.Event, error) {
	type answer struct {
		busy  bool
		fired <-chan zk.Event
	}
	a, err := call(ctx, s.link, reads, func(c *zk.Conn) (answer, error) {
		if !there {
			ok, _, ch, err := c.ExistsW(dir)
			return answer{ok, ch}, err
		}
		names, _, ch, err := c.ChildrenW(dir)
		return answer{len(places(names)) > 0, ch}, err
	}, nil)
	if errors.Is(err, zk.ErrNoNode) || err == nil && a.busy {
		return nil, errAgain
	}
	return a.fired, err
}
