package kv

import (
	"context"
	"log/slog"
	"strconv"
	"sync"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keys"
)

// The types that this package shares with drivers: package backend describes
// their fields.
type (
	// Revision is the number of a write: see backend.Revision.
	Revision = backend.Revision
	// Token is a place in a watch: see Resume.
	Token = backend.Token
	// Kind is what an Event tells: Created and so on.
	Kind = backend.Kind
	// Check is a condition for If and Txn.If. A lock makes one
	// (lock.Held.Check); Absent, Present and AtRevision of a Store or Typed
	// make one on a key. In a Check by hand the key is the full one, as
	// Store.Key gives it.
	Check = backend.Check
	// TxnResult is what Commit returns: the revision, and an entry for each
	// write.
	TxnResult = backend.TxnResult
	// Capabilities is what one store can promise: see backend.Capabilities.
	Capabilities = backend.Capabilities
	// Health is how a watch is connected: see backend.Health.
	Health = backend.Health
)

// The kinds of events.
const (
	Created  = backend.Created
	Updated  = backend.Updated
	Deleted  = backend.Deleted
	Existing = backend.Existing
	Synced   = backend.Synced
	Resynced = backend.Resynced
	Progress = backend.Progress
)

// Store is a key/value store, or a view of the part of one below a prefix. Its
// values are bytes; NewTyped gives it types. All methods are safe for
// concurrent use.
//
// Keys are UTF-8 segments joined by slashes. Leading, trailing and doubled
// slashes are removed, so "/a//b/" is "a/b"; keys come back in that form,
// relative to the store. An empty key, one with NUL or invalid UTF-8, and one
// longer than Capabilities.MaxKeyBytes is ErrInvalidKey before any I/O. A
// prefix covers what lies strictly below it, segment by segment: "foo" covers
// "foo/bar", neither "foobar" nor "foo". The prefix "" is everything.
type Store struct {
	core   *core
	prefix string // canonical; "" is the driver's root
	bad    error  // the prefix was not a prefix: every call says so
	view   bool   // made by Sub
}

// core is what a store and its views share.
type core struct {
	b           backend.Store
	name        string
	log         *slog.Logger
	intercept   Interceptor // nil: none
	portable    bool
	watchBuffer int

	ctx    context.Context // ends when the store closes
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine that this package starts

	spawning sync.Mutex // innermost: held by nobody who takes another lock
	drained  bool       // nothing may be spawned any more

	mu      sync.Mutex
	closed  bool
	hooks   map[int]func()
	hook    int
	hubs    map[hubKey]*hub
	closing sync.Once
	err     error // of Close
}

// New returns a store on a driver's. It does no I/O and cannot fail: a prefix
// option that is not a prefix is ErrInvalidKey from every call. The store owns
// b and closes it, while b closes its client only if it opened that itself.
func New(b backend.Store, opts ...Option) *Store {
	var o storeOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.store(o)
		}
	}
	c := &core{
		b:           b,
		name:        b.Capabilities().Name,
		log:         o.logger,
		intercept:   o.intercept,
		portable:    o.portable,
		watchBuffer: o.watchBuffer,
		hooks:       map[int]func(){},
		hubs:        map[hubKey]*hub{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.watchBuffer <= 0 {
		c.watchBuffer = DefaultWatchBuffer
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	s := &Store{core: c}
	s.prefix, s.bad = keys.CanonicalPrefix(o.prefix)
	return s
}

// Sub returns a view of s below prefix, which joins the prefixes that s has
// already. A view has no life of its own: it shares the store's connection and
// watches, and its Close does nothing. A malformed prefix is ErrInvalidKey from
// every call of the view.
func (s *Store) Sub(prefix string) *Store {
	sub := &Store{core: s.core, bad: s.bad, view: true}
	p, err := keys.CanonicalPrefix(prefix)
	switch {
	case sub.bad != nil:
	case err != nil:
		sub.bad = err
	case p == "":
		sub.prefix = s.prefix
	default:
		sub.prefix = keys.Join(s.prefix, p)
	}
	return sub
}

// Capabilities tells what the store can promise, where stores differ. It does
// no I/O.
func (s *Store) Capabilities() Capabilities {
	caps := s.core.b.Capabilities()
	if s.core.portable {
		caps = portable(caps)
	}
	return caps
}

// Ping makes one round trip to the store. It needs no right outside the
// driver's root. Errors: ErrUnavailable, ErrPermission, ErrClosed, the
// context's.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.ready(ctx, OpPing); err != nil {
		return err
	}
	return s.core.do(ctx, OpPing, "", s.core.b.Ping)
}

// Adopt looks once over all keys of the store, so that what other programs
// wrote unnoticed gets its revision and its event, and returns how many were
// adopted, also beside an error. It is for stores on which
// Capabilities.ForeignEvents is unset, Redis without keyspace notifications and
// bbolt; elsewhere it does nothing. Errors: ErrUncertain, ErrUnavailable,
// ErrPermission, ErrClosed, the context's.
func (s *Store) Adopt(ctx context.Context) (int64, error) {
	if err := s.ready(ctx, OpAdopt); err != nil {
		return 0, err
	}
	var n int64
	err := s.core.do(ctx, OpAdopt, s.prefix, func(ctx context.Context) (err error) {
		n, err = s.core.b.Adopt(ctx, s.prefix)
		return err
	})
	return n, err
}

// Close ends the store's watches, registrations and locks, waits for all
// goroutines behind them and closes the driver's store. Registered keys and
// locks are released while the store answers, for two seconds at most. Calls
// under way and later ones return ErrClosed. Close is idempotent, and does
// nothing on a view made by Sub.
func (s *Store) Close() error {
	if s.view {
		return nil
	}
	c := s.core
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		hooks := make([]func(), 0, len(c.hooks))
		for _, f := range c.hooks {
			hooks = append(hooks, f)
		}
		c.mu.Unlock()
		var wg sync.WaitGroup
		for _, f := range hooks {
			wg.Go(f)
		}
		wg.Wait()
		c.cancel()
		err := c.b.Close()
		c.spawning.Lock()
		c.drained = true
		c.spawning.Unlock()
		c.wg.Wait()
		c.err = c.fail(OpClose, "", err)
	})
	return c.err
}

// Backend returns the driver's store, for packages that are built on a Store,
// as lock is, and for reaching the native client. Keys are full there: see
// Key.
func (s *Store) Backend() backend.Store { return s.core.b }

// Key returns the canonical key as the driver sees it, the store's prefix
// included, or ErrInvalidKey.
func (s *Store) Key(key string) (full string, err error) { return s.full(OpKey, key) }

// Do runs f, an operation of a package that is built on a Store, as the
// methods of Store run theirs: through the interceptor, and with the error
// wrapped. key is full.
func (s *Store) Do(ctx context.Context, op Op, key string, f func(context.Context) error) error {
	if err := s.check(op); err != nil {
		return err
	}
	return s.core.do(ctx, op, key, f)
}

// OnClose has f called by Close of the root store, before the driver's store
// closes and concurrently with other such functions; Close waits for it. The
// function that it returns takes f back. ErrClosed if the store is closed.
func (s *Store) OnClose(f func()) (remove func(), err error) {
	c := s.core
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, c.fail(OpClose, "", ErrClosed)
	}
	c.hook++
	id := c.hook
	c.hooks[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.hooks, id)
	}, nil
}

// spawn runs f in a goroutine that Close waits for, unless it is too late.
func (c *core) spawn(f func()) bool {
	c.spawning.Lock()
	defer c.spawning.Unlock()
	if c.drained {
		return false
	}
	c.wg.Go(f)
	return true
}

// check refuses calls on a store that has a bad prefix.
func (s *Store) check(op Op) error {
	if s.bad != nil {
		return s.core.fail(op, "", backend.Because(ErrInvalidKey, s.bad))
	}
	return nil
}

// ready refuses what every call is refused for: a bad prefix, a closed store
// and an ended context. Most calls are by s.full and the driver; those that may
// have neither a key nor anything to ask the driver begin with it.
func (s *Store) ready(ctx context.Context, op Op) error {
	contexts.Require(ctx)
	if err := s.check(op); err != nil {
		return err
	}
	if s.core.ctx.Err() != nil {
		return s.core.fail(op, "", ErrClosed)
	}
	return s.core.fail(op, "", contextError(ctx))
}

// full is the one place where keys are normalised, joined and bounded.
func (s *Store) full(op Op, key string) (string, error) {
	k, err := keys.Canonical(key)
	if err == nil {
		err = s.bad
	}
	if err != nil {
		return "", s.core.fail(op, key, backend.Because(ErrInvalidKey, err))
	}
	if s.prefix != "" {
		k = keys.Join(s.prefix, k)
	}
	if len(k) > s.core.maxKeyBytes() {
		return "", s.core.fail(op, "", backend.Because(ErrInvalidKey, tooLong(len(k))))
	}
	return k, nil
}

// fullPrefix does for prefixes what full does for keys.
func (s *Store) fullPrefix(op Op, prefix string) (string, error) {
	p, err := keys.CanonicalPrefix(prefix)
	if err == nil {
		err = s.bad
	}
	if err != nil {
		return "", s.core.fail(op, prefix, backend.Because(ErrInvalidKey, err))
	}
	switch {
	case p == "":
		p = s.prefix
	case s.prefix != "":
		p = keys.Join(s.prefix, p)
	}
	if len(p) > s.core.maxKeyBytes() {
		return "", s.core.fail(op, "", backend.Because(ErrInvalidKey, tooLong(len(p))))
	}
	return p, nil
}

// relative is the inverse of full.
func (s *Store) relative(full string) string {
	if s.prefix == "" {
		return full
	}
	return full[len(s.prefix)+1:]
}

// tooLong is the reason for refusing a key, without the key: it may be huge.
type tooLong int

func (n tooLong) Error() string { return strconv.Itoa(int(n)) + " bytes is too long" }

// quoteKey shows a key in an error, cut if it is very long.
func quoteKey(key string) string {
	const most = 256
	if len(key) > most {
		return strconv.Quote(key[:most]) + "…"
	}
	return strconv.Quote(key)
}
