package zookeeperkv

import (
	"context"
	"errors"
	"sync"

	"github.com/go-zookeeper/zk"
)

// node is what a read tells of one node. The zero node does not exist.
type node struct {
	data   []byte // nil: a directory, not a key; also where only the Stat was asked for
	stat   zk.Stat
	exists bool
}

// A node with nil data is a directory, one with empty data a key with an empty value: the protocol tells them apart (a
// length of -1), and so do snapshots and logs of the server.
func (n node) isKey() bool { return n.data != nil }

// get reads a node. One that does not exist is no error.
func (s *Store) get(ctx context.Context, l *link, path string) (node, error) {
	n, err := call(ctx, l, reads, func(c *zk.Conn) (node, error) {
		data, stat, err := c.Get(path)
		if err != nil {
			return node{}, err
		}
		return node{data: data, stat: *stat, exists: true}, nil
	}, nil)
	return l.noted(n, err)
}

// exists reads a node without its data, which leaves open whether it is a key.
func (s *Store) exists(ctx context.Context, l *link, path string) (node, error) {
	n, err := call(ctx, l, reads, func(c *zk.Conn) (node, error) {
		ok, stat, err := c.Exists(path)
		if err != nil || !ok {
			return node{}, err
		}
		return node{stat: *stat, exists: true}, nil
	}, nil)
	return l.noted(n, err)
}

// present stands for data that was not asked for.
var present = []byte{}

// head reads a node without its data if it has any: data is then present, and isKey tells the truth.
func (s *Store) head(ctx context.Context, l *link, path string) (node, error) {
	n, err := s.exists(ctx, l, path)
	if err != nil || !n.exists {
		return n, err
	}
	if n.stat.DataLength == 0 {
		return s.get(ctx, l, path)
	}
	n.data = present
	return n, nil
}

func (l *link) noted(n node, err error) (node, error) {
	if errors.Is(err, zk.ErrNoNode) {
		return node{}, nil
	}
	if err == nil && n.exists {
		l.saw(max(n.stat.Mzxid, n.stat.Pzxid))
	}
	return n, err
}

// children reads the names in a directory. ok is false if there is no such node.
func (s *Store) children(ctx context.Context, l *link, path string) (names []string, ok bool, err error) {
	names, err = call(ctx, l, reads, func(c *zk.Conn) ([]string, error) {
		names, _, err := c.Children(path)
		return names, err
	}, nil)
	if errors.Is(err, zk.ErrNoNode) {
		return nil, false, nil
	}
	return names, err == nil, err
}

// create makes a node; one that is there is no error.
func (s *Store) create(ctx context.Context, l *link, path string, data []byte) error {
	_, err := call(ctx, l, writes, func(c *zk.Conn) (string, error) {
		return c.Create(path, data, zk.FlagPersistent, s.o.ACL)
	}, nil)
	if errors.Is(err, zk.ErrNodeExists) {
		return nil
	}
	return err
}

// multi applies ops, all or none. failed is the operation that did not hold, or -1. late gets the answer that comes
// after the call has returned.
func (s *Store) multi(ctx context.Context, l *link, ops []any, late func([]zk.MultiResponse, error)) (res []zk.MultiResponse, failed int, err error) {
	if err := s.fits(multiSize(ops)); err != nil {
		return nil, -1, err
	}
	type answer struct {
		res    []zk.MultiResponse
		failed int
	}
	a, err := call(ctx, l, writes, func(c *zk.Conn) (answer, error) {
		res, err := c.Multi(ops...)
		a := answer{res, -1}
		for i := range res {
			if res[i].Error != nil {
				// The operations after the one that failed have an error of their own, of no meaning.
				a.failed, err = i, res[i].Error
				break
			}
		}
		return a, err
	}, func(a answer, err error) {
		if late != nil {
			late(a.res, err)
		}
	})
	if err == nil {
		for i := range a.res {
			if st := a.res[i].Stat; st != nil {
				l.saw(st.Mzxid)
			}
		}
	}
	return a.res, a.failed, err
}

// pipeline is how many requests of one call are under way together.
const pipeline = 32

// parallel calls f for 0 to n-1, with no more than pipeline calls at a time, and returns the first error. f must return
// when ctx ends.
func parallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	if n == 1 {
		return f(ctx, 0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu    sync.Mutex
		next  int
		first error
		wg    sync.WaitGroup
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == n || first != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range min(n, pipeline) {
		wg.Go(func() {
			for {
				i, ok := take()
				if !ok {
					return
				}
				if err := f(ctx, i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
						cancel()
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}
