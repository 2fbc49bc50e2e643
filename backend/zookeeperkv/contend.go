package zookeeperkv

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
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
		res, _, err := s.multi(ctx, c.l, ops, func() { c.undo() })
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
	sequence int64
}

func places(names []string) []place {
	queue := make([]place, 0, len(names))
	for _, name := range names {
		f := strings.Split(name, "-")
		if len(f) < 3 || f[0] == "" {
			continue
		}
		p := place{name: name}
		var err error
		if p.sequence, err = strconv.ParseInt(f[2], 10, 64); err != nil {
			continue
		}
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

// keep watches over the place until it is gone.
func (c *contender) keep() {
	ctx, cancel := c.l.context()
	defer cancel()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for {
		epoch, _ := c.l.session.now()
		changed := c.l.session.changed()
		ch, there := c.watchOwn(ctx)
		if ch != nil && !there {
			c.lose()
			return
		}
		again := false
		for !again {
			c.mu.Lock()
			renewed := c.renewed
			c.mu.Unlock()
			contact := c.l.contact(c.granted)
			if contact.Before(renewed) {
				contact = renewed
			}
			// Not renewed in time, or for so long without contact that the server may have ended the session.
			end := renewed.Add(c.lease)
			if t := contact.Add(c.granted); t.Before(end) {
				end = t
			}
			d := time.Until(end)
			if d <= 0 {
				c.lose()
				return
			}
			if ch == nil {
				d = min(d, 100*time.Millisecond)
			}
			t := time.NewTimer(d)
			select {
			case <-c.gone:
				t.Stop()
				return
			case <-c.lost:
				t.Stop()
				return
			case e := <-ch:
				if e.Type == zk.EventNodeDeleted || e.Type == zk.EventNotWatching {
					t.Stop()
					c.lose()
					return
				}
				again = true
			case <-changed:
				now, up := c.l.session.now()
				again = up && now != epoch
				changed = c.l.session.changed()
			case <-t.C:
				again = ch == nil
			case <-c.l.done:
				t.Stop()
				return
			}
			t.Stop()
		}
	}
}

// watchOwn watches the place's own node; the channel is nil if that did not succeed in a moment.
func (c *contender) watchOwn(ctx context.Context) (ch <-chan zk.Event, there bool) {
	type answer struct {
		there bool
		ch    <-chan zk.Event
	}
	ctx, cancel := context.WithTimeout(ctx, min(c.granted/4, time.Second))
	defer cancel()
	a, err := call(ctx, c.l, reads, func(conn *zk.Conn) (answer, error) {
		there, _, ch, err := conn.ExistsW(c.path)
		return answer{there, ch}, err
	}, nil)
	if err != nil {
		return nil, false
	}
	return a.ch, a.there
}
