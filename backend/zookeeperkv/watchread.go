package zookeeperkv

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"
)

// read reads nodes side by side and sets the watches that are not set.
func (w *watch) read(jobs []job) ([]result, error) {
	results := make([]result, len(jobs))
	err := parallel(w.ctx, len(jobs), func(ctx context.Context, i int) (err error) {
		j := jobs[i]
		r := &results[i]
		r.job = j
		if j.bits&dataBit != 0 {
			read := w.headW
			if j.value {
				read = w.getW
			}
			if r.record, err = w.s.record(ctx, w.l, j.path, read); err != nil {
				return err
			}
		}
		if j.bits&childBit != 0 {
			r.names, r.ok, err = w.childrenW(ctx, j.path)
		}
		return err
	})
	return results, err
}

// getW reads a node and watches it. A node that is not there is watched only if it is the watch's own: any other comes
// back through its directory.
func (w *watch) getW(ctx context.Context, l *link, path string) (node, error) {
	for {
		armed, fires := l.hub.look(path, dataBit)
		if armed {
			return w.s.get(ctx, l, path)
		}
		type answer struct {
			n  node
			ch <-chan zk.Event
		}
		a, err := call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
			data, stat, ch, err := c.GetW(path)
			if err != nil {
				return answer{}, err
			}
			return answer{node{data: data, stat: *stat, exists: true}, ch}, nil
		}, nil)
		if err == nil {
			l.hub.arm(path, dataBit, fires, a.ch)
		}
		n, err := l.noted(a.n, err)
		if err != nil || n.exists || !w.o.Key {
			return n, err
		}
		if n, err = w.existsW(ctx, l, path); err != nil || !n.exists {
			return n, err
		}
	}
}

// headW is getW without the value, as head is.
func (w *watch) headW(ctx context.Context, l *link, path string) (node, error) {
	n, err := w.existsW(ctx, l, path)
	if err != nil || !n.exists {
		return n, err
	}
	if n.stat.DataLength == 0 {
		return w.s.get(ctx, l, path)
	}
	n.data = present
	return n, nil
}

// existsW watches a node, whether it is there or not.
func (w *watch) existsW(ctx context.Context, l *link, path string) (node, error) {
	armed, fires := l.hub.look(path, dataBit)
	if armed {
		return w.s.exists(ctx, l, path)
	}
	type answer struct {
		n  node
		ch <-chan zk.Event
	}
	a, err := call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
		ok, stat, ch, err := c.ExistsW(path)
		if err != nil {
			return answer{}, err
		}
		a := answer{ch: ch}
		if ok {
			a.n = node{stat: *stat, exists: true}
		}
		return a, nil
	}, nil)
	if err != nil {
		return node{}, err
	}
	l.hub.arm(path, dataBit, fires, a.ch)
	return l.noted(a.n, nil)
}

// childrenW reads the names in a directory and watches it. The watch's own directory is watched also while it is not
// there.
func (w *watch) childrenW(ctx context.Context, path string) (names []string, ok bool, err error) {
	l := w.l
	for {
		armed, fires := l.hub.look(path, childBit)
		if armed {
			names, ok, err = w.s.children(ctx, l, path)
		} else {
			type answer struct {
				names []string
				ch    <-chan zk.Event
			}
			var a answer
			a, err = call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
				names, _, ch, err := c.ChildrenW(path)
				return answer{names, ch}, err
			}, nil)
			if err == nil {
				l.hub.arm(path, childBit, fires, a.ch)
			}
			names, ok = a.names, err == nil
			if errors.Is(err, zk.ErrNoNode) {
				err = nil
			}
		}
		if err != nil || ok || path != w.dir {
			return names, ok, err
		}
		if n, err := w.existsW(ctx, l, path); err != nil || !n.exists {
			return nil, false, err
		}
	}
}
