package consulkv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// The queue of a lock is a set of entries in the bookkeeping, one for each
// contender, each owned by a session of its own and deleted with it:
//
//	<meta>/locks/<name>/<store>-<serial>
//
// Consul's own index of the write that made the entry is its place in the queue
// and its fencing token: it grows for as long as the cluster lives. (LockIndex,
// of which Consul's own locks make their fence, starts again at 1 when the key
// is deleted.) The flags say what the contender wants, the value is what it
// shows.

// contender is a backend.Contender.
type contender struct {
	s       *Store
	line    *line
	name    string // of the lock
	entry   string // native name
	session string
	token   uint64
	lease   time.Duration
	place   uint64 // flags

	admitted chan struct{} // closed when it may hold
	lost     chan struct{} // closed when the place is gone

	mu      sync.Mutex
	renewed time.Time
	over    bool
	isLost  bool
	ended   chan struct{} // closed when nothing of it is left
	waits   bool          // guarded by line.mu
}

// lockPrefix is the native prefix of a lock's queue. The lock's name becomes
// one segment, so that no queue lies below another.
func (s *Store) lockPrefix(name string) string {
	segment := lockSegment.Replace(s.space.Escaper().Encode(name))
	return s.space.Meta() + "/locks/" + segment + "/"
}

var lockSegment = strings.NewReplacer("=", "=u3D-", "/", "=u2F-")

// Contend implements backend.Store, in two requests, session and place; the
// answer to the second one is the queue. With Try a read of the queue goes
// first, so that a lock that is held costs no write. It needs the right to
// write sessions on the agent's node, and keys in the bookkeeping.
//
// Errors: backend.ErrLocked, ErrInvalid, ErrNewerSchema, ErrPermission,
// ErrUnavailable, ErrUncertain.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if _, err := s.name(name); err != nil {
		return nil, err
	}
	if err := s.fits(o.Value); err != nil {
		return nil, err
	}
	ttl, err := s.lease(o.Lease)
	if err != nil {
		return nil, err
	}
	o.Value = append([]byte(nil), o.Value...) // the caller's, if it does not wait
	c, err := detached(ctx, s, func(ctx context.Context) (*contender, error) {
		return s.contend(ctx, name, ttl, o)
	}, func(ctx context.Context, c *contender) { c.end(ctx) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Store) contend(ctx context.Context, name string, ttl time.Duration, o backend.ContendOptions) (*contender, error) {
	if err := s.checkSchema(ctx); err != nil {
		return nil, err
	}
	prefix := s.lockPrefix(name)
	want := placeFlags(o)
	if o.Try {
		queue, _, err := s.readQueue(ctx, prefix)
		if err != nil {
			return nil, err
		}
		me, _ := placeOf(want)
		if ok, _ := backend.Admitted(append(queue.places(), me), len(queue)); !ok {
			return nil, backend.ErrLocked
		}
	}
	sent := time.Now()
	id, err := s.startSession(ctx, ttl)
	if err != nil {
		return nil, err
	}
	c := &contender{
		s: s, name: name, session: id, lease: ttl, place: want, renewed: sent,
		entry:    prefix + s.id + "-" + strconv.FormatUint(s.serial.Add(1), 36),
		admitted: make(chan struct{}),
		lost:     make(chan struct{}),
		ended:    make(chan struct{}),
	}
	err = c.enter(ctx, prefix, o)
	if err == nil && !s.adopt(c) {
		err = backend.ErrClosed
	}
	if err != nil {
		if c.line != nil {
			c.line.leave(c)
		}
		s.discard(id, ttl, err)
		return nil, err
	}
	return c, nil
}

// enter takes the place.
func (c *contender) enter(ctx context.Context, prefix string, o backend.ContendOptions) error {
	out, err := c.s.apply(ctx, []txnOp{
		{kvOp{Verb: verbLock, Key: c.entry, Session: c.session, Value: o.Value, Flags: c.place}},
		{kvOp{Verb: verbGetTree, Key: prefix}},
	})
	if err != nil {
		return err
	}
	if !out.ok() {
		if err := c.s.permitted(ctx, c.entry); err != nil {
			return err
		}
		return fmt.Errorf("%w: the session ended at once", backend.ErrUnavailable)
	}
	c.token = out.pairs[0].CreateIndex
	var queue queueState
	for _, p := range out.pairs[1:] {
		queue = queue.add(p.Key, p.Session, p.Flags, p.CreateIndex, p.ModifyIndex, nil)
	}
	queue.sort()
	i := queue.find(c.entry)
	if i < 0 {
		return backend.Because(backend.ErrPermission, errors.New("the lock's queue cannot be read"))
	}
	ok, _ := backend.Admitted(queue.places(), i)
	if !ok && o.Try {
		return backend.ErrLocked
	}
	if ok {
		close(c.admitted)
	}
	c.line, err = c.s.join(c, prefix, !ok)
	return err
}

// Wait implements backend.Contender.
func (c *contender) Wait(ctx context.Context) error {
	if err := c.live(); err != nil {
		return err
	}
	select {
	case <-c.admitted:
		return nil
	default:
	}
	select {
	case <-c.admitted:
		return nil
	case <-c.lost:
		return backend.ErrLockLost
	case <-c.ended:
		return c.closedOr(backend.ErrLockLost)
	case <-c.s.ctx.Done():
		return backend.ErrClosed
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

func (c *contender) closedOr(err error) error {
	if c.s.ctx.Err() != nil {
		return backend.ErrClosed
	}
	return err
}

func (c *contender) Token() uint64         { return c.token }
func (c *contender) Lease() time.Duration  { return c.lease }
func (c *contender) Lost() <-chan struct{} { return c.lost }

// Renewed implements backend.Contender.
func (c *contender) Renewed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// Check implements backend.Contender.
func (c *contender) Check() backend.Check {
	return backend.Check{If: backend.LockHeld, Key: c.name, Holder: c.session + "/" + c.entry[strings.LastIndexByte(c.entry, '/')+1:]}
}

// heldOp is the operation for a check that Check made.
func (s *Store) heldOp(c backend.Check) (txnOp, error) {
	session, id, ok := strings.Cut(c.Holder, "/")
	if !ok || session == "" || id == "" || strings.Contains(id, "/") {
		return txnOp{}, fmt.Errorf("%w: a check of a lock that Contender.Check did not make", backend.ErrInvalid)
	}
	return txnOp{kvOp{Verb: verbCheckSession, Key: s.lockPrefix(c.Key) + id, Session: session}}, nil
}

// Renew implements backend.Contender, in one request.
func (c *contender) Renew(ctx context.Context) error {
	if err := c.live(); err != nil {
		return err
	}
	sent := time.Now()
	ok, err := c.s.renewSession(ctx, c.session)
	if err != nil {
		return err
	}
	if !ok {
		c.lose()
		return backend.ErrLockLost
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent.After(c.renewed) {
		c.renewed = sent
	}
	return nil
}

// Set implements backend.Contender, in one request.
func (c *contender) Set(ctx context.Context, value []byte) error {
	if err := c.s.fits(value); err != nil {
		return err
	}
	if err := c.live(); err != nil {
		return err
	}
	o, err := c.s.apply(ctx, []txnOp{
		{kvOp{Verb: verbCheckSession, Key: c.entry, Session: c.session}},
		{kvOp{Verb: verbSet, Key: c.entry, Value: value, Flags: c.place}},
	})
	if err != nil {
		return err
	}
	if !o.ok() {
		c.lose()
		return backend.ErrLockLost
	}
	return nil
}

// live fails for a contender that was released or lost.
func (c *contender) live() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.isLost {
		return c.closedOr(backend.ErrLockLost)
	}
	return nil
}

// lose notes that the place is gone.
func (c *contender) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isLost && !c.over {
		c.isLost = true
		close(c.lost)
	}
}

// Release implements backend.Contender, in one request: the place goes with
// its session.
func (c *contender) Release(ctx context.Context) error {
	if c.finish() && !c.s.spawn(c.cleanup) {
		go c.cleanup() // Close has begun, and waits for it in end
	}
	select {
	case <-c.ended:
		return nil
	default:
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

func (c *contender) finish() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.over
	c.over = true
	return first
}

func (c *contender) end(context.Context) {
	if c.finish() {
		c.cleanup()
	}
	<-c.ended
}

func (c *contender) cleanup() {
	defer close(c.ended)
	defer c.s.forget(c)
	c.line.leave(c)
	if err := c.s.dropSession(c.session, c.lease); err != nil {
		c.s.o.Logger.Warn("consulkv: a released lock is left to its lease's end", "lock", c.name, "err", err)
	}
}
