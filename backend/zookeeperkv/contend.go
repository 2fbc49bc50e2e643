package zookeeperkv

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// Contend implements backend.Store. A place in the queue is an ephemeral sequential node below META/lock/NAME:
//
//	KIND-GUID-SEQUENCE   KIND: x exclusive, s shared, nN one of N slots
//
// It is made in one Multi with a write of the directory, whose Stat tells two things at once: the zxid, which is the
// place's token, and the number of children, which is 1 if nobody else is there. A free lock is thus had in one round
// trip. The GUID finds the place again when the answer was lost.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if _, err := s.path(name); err != nil {
		return nil, err
	}
	if err := s.fitsValue(name, o.Value); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	l, granted, err := s.leases.link(ctx, o.Lease)
	if err != nil {
		return nil, err
	}
	c := &contender{
		s: s, l: l, name: name, dir: s.lockDir(name), guid: rand.Text(), place: backend.Place{Shared: o.Shared, Slots: o.Slots},
		granted: granted, lease: max(o.Lease, granted),
		lost: make(chan struct{}), gone: make(chan struct{}),
	}
	alone, err := c.enter(ctx, o.Value)
	if err != nil {
		return nil, err
	}
	c.admitted = alone
	if o.Try && !alone {
		queue, err := c.queue(ctx)
		ok := false
		if err == nil {
			ok, _, err = c.position(queue)
		}
		if err == nil && !ok {
			err = backend.ErrLocked
		}
		if err != nil {
			c.discard()
			if rerr := c.left(ctx); rerr != nil && errors.Is(err, backend.ErrLocked) {
				err = rerr
			}
			return nil, err
		}
		c.admitted = true
	}
	if err := s.adopt(c); err != nil {
		c.discard()
		return nil, err
	}
	l.contenders.Add(1)
	ok := l.spawn(func() {
		defer l.contenders.Add(-1)
		c.keep()
	})
	if !ok {
		return nil, backend.ErrClosed
	}
	return c, nil
}

func (s *Store) lockDir(name string) string { return s.meta + "/lock/" + lockName(name) }

// lockName makes one segment of a lock's name.
func lockName(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F").Replace(keys.ZooKeeper().Encode(name))
}

// contender is one place.
type contender struct {
	s       *Store
	l       *link
	name    string
	dir     string
	guid    string
	place   backend.Place
	path    string // of the node
	token   int64
	lease   time.Duration
	granted time.Duration // the session's timeout

	gone  chan struct{} // closed when the node is no more, or not ours to remove
	lost  chan struct{}
	leave sync.Once

	mu       sync.Mutex
	renewed  time.Time
	admitted bool
	released bool
	isLost   bool

	pred   string // the node that Wait last watched, and how
	predCh <-chan zk.Event
}

// Token implements backend.Contender.
func (c *contender) Token() uint64 { return uint64(c.token) }

// Check implements backend.Contender. The node's name never comes back, so that it is there says all.
func (c *contender) Check() backend.Check {
	return backend.Check{If: backend.LockHeld, Key: c.name, Holder: c.path}
}

// Lease implements backend.Contender.
func (c *contender) Lease() time.Duration { return c.lease }

// Renewed implements backend.Contender.
func (c *contender) Renewed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

func (c *contender) over() error {
	c.mu.Lock()
	over := c.isLost || c.released
	c.mu.Unlock()
	if err := c.s.usable(); err != nil {
		return err
	}
	if over {
		return backend.ErrLockLost
	}
	return nil
}

// Renew implements backend.Contender. The client's pings keep the session, and with it the place; this is a read
// that shows that both are still there.
func (c *contender) Renew(ctx context.Context) error {
	if err := c.over(); err != nil {
		return err
	}
	sent := time.Now()
	n, err := c.s.exists(ctx, c.l, c.path)
	if err != nil {
		return err
	}
	if !n.exists {
		c.lose()
		return backend.ErrLockLost
	}
	if err := c.over(); err != nil {
		return err
	}
	c.mu.Lock()
	if sent.After(c.renewed) {
		c.renewed = sent
	}
	c.mu.Unlock()
	return nil
}

// Set implements backend.Contender.
func (c *contender) Set(ctx context.Context, value []byte) error {
	if err := c.over(); err != nil {
		return err
	}
	if err := c.s.fitsValue(c.path, value); err != nil {
		return err
	}
	value = append([]byte{}, value...)
	_, err := call(ctx, c.l, writes, func(conn *zk.Conn) (*zk.Stat, error) { return conn.Set(c.path, value, -1) }, nil)
	if errors.Is(err, zk.ErrNoNode) {
		c.lose()
		return backend.ErrLockLost
	}
	return err
}

// Lost implements backend.Contender.
func (c *contender) Lost() <-chan struct{} { return c.lost }

// lose notes that the place is gone, or has to be taken for gone.
func (c *contender) lose() {
	c.mu.Lock()
	told := c.isLost || c.released
	if !c.released {
		c.isLost = true
	}
	c.mu.Unlock()
	if told {
		return
	}
	close(c.lost)
	c.s.disown(c)
	c.discard() // the session may live, and with it the node
}

// Release implements backend.Contender.
func (c *contender) Release(ctx context.Context) error {
	c.mu.Lock()
	lost := c.isLost
	c.released = true
	c.mu.Unlock()
	if lost {
		return nil
	}
	c.discard()
	err := c.left(ctx)
	c.s.disown(c)
	return err
}

func (c *contender) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.Release(ctx)
}
