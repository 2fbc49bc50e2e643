package zookeeperkv

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// Defaults of Options, and limits.
const (
	DefaultDialTimeout    = 5 * time.Second
	DefaultSessionTimeout = 10 * time.Second
	DefaultClockSkew      = 500 * time.Millisecond
	DefaultWatchBuffer    = 4 << 20
	DefaultMaxRequest     = 0xfffff // the server's jute.maxbuffer

	maxKeyBytes = 4 << 10
	ttlSlack    = 2 * time.Second
)

// Options configure a store. The zero value works: the whole tree, on a server in its default configuration.
type Options struct {
	// Root is the node below which the keys lie, "/demo" or "demo"; "" and "/" are the whole tree. ZooKeeper has no
	// names without a leading slash, so both spellings are one root. It plays the part of the chroot in the connection
	// strings of other clients.
	Root string
	// Meta is the node of the bookkeeping, "" for Root with "=kv" appended. It must not lie at or above Root.
	Meta string
	// ACL is given to every node that the store creates; nil: everybody may do everything.
	ACL []zk.ACL
	// MaxRequest bounds the bytes of one request: the server's jute.maxbuffer. The server drops the connection of a
	// client that exceeds it. 0: 1048575.
	MaxRequest int
	// SessionTimeout is what the connection was made with. For New it must not be more than the timeout that the
	// server grants (20 ticks, 40 s, in its default configuration), since the client does not tell; a Driver asks for
	// it and knows what was granted. It is the shortest lease of a lock. 0: 10 s.
	SessionTimeout time.Duration
	// DialTimeout is how long a call waits for a connection, or for the answer to one request, before it fails with
	// ErrUnavailable; a write that was sent fails with ErrUncertain. 0: 5 s.
	DialTimeout time.Duration
	// ClockSkew is by how much the clocks of the clients may differ. An entry stays visible for so much longer than
	// its TTL. 0: 500 ms.
	ClockSkew time.Duration
	// WatchBuffer is how many bytes of events a watch holds for a reader that does not come. 0: 4 MiB.
	WatchBuffer int
	// Logger gets what the store and the client have to say. nil: nothing.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	setDefault(&o.MaxRequest, DefaultMaxRequest)
	setDefault(&o.SessionTimeout, DefaultSessionTimeout)
	setDefault(&o.DialTimeout, DefaultDialTimeout)
	setDefault(&o.ClockSkew, DefaultClockSkew)
	setDefault(&o.WatchBuffer, DefaultWatchBuffer)
	if o.ACL == nil {
		o.ACL = zk.WorldACL(zk.PermAll)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Store is a store in ZooKeeper. See the package's documentation for what it promises.
type Store struct {
	backend.Unimplemented

	o      Options
	space  keys.Space
	root   string // native, "/" for the whole tree
	meta   string
	bad    error // of New's options, reported by every call
	link   *link
	owned  bool
	dialer *dialer // nil for New: further sessions cannot be opened

	guards  guards
	schema  schema
	reaper  reaper
	leases  sessions
	bulk    bulk
	skipped sync.Once
	foreign atomic.Int64

	life context.Context // ends as Close begins, the link only as it ends
	end  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	closers map[closer]struct{}
	tidying sync.WaitGroup // background work that needs the connection
}

// closer is something that ends with the store.
type closer interface{ shut() }

var _ backend.Store = (*Store)(nil)

// New returns a store on a connection of the caller's. It does no I/O, and Close leaves the connection open.
//
// A store made by a Driver is better: it knows the connection's events, so that a read that is linearizable takes one
// round trip where it takes two here, and outages are noticed at once where they are looked for every 50 ms here. Options that cannot
// be followed make every call fail with ErrInvalid.
func New(conn *zk.Conn, o Options) *Store {
	o = o.withDefaults()
	return newStore(newLink(conn, nil, o), o)
}

func newStore(l *link, o Options) *Store {
	s := &Store{o: o, link: l, closers: map[closer]struct{}{}}
	s.life, s.end = context.WithCancel(context.Background()) // until Close
	s.space = keys.NewSpace(absolute(o.Root), keys.ZooKeeper())
	if o.Meta != "" {
		var err error
		if s.space, err = s.space.WithMeta(absolute(o.Meta)); err != nil {
			s.bad = fmt.Errorf("%w: Meta: %w", backend.ErrInvalid, err)
		}
	}
	s.root, s.meta = s.space.Root(), s.space.Meta()
	s.guards.s, s.reaper.s, s.schema.s, s.leases.s, s.bulk.s = s, s, s, s, s
	s.bulk.turn = make(chan struct{}, 1)
	return s
}

// absolute is root with the one leading slash that every path has.
func absolute(root string) string { return "/" + strings.Trim(root, "/") }

// Conn returns the client's connection.
func (s *Store) Conn() *zk.Conn { return s.link.conn }

// Root returns the node below which the keys lie.
func (s *Store) Root() string { return s.root }

// ForeignNames is how many times a node was met below the root, and skipped, whose name is no canonical key's.
func (s *Store) ForeignNames() int64 { return s.foreign.Load() }

// Capabilities implements backend.Store.
func (s *Store) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:              "zookeeper",
		MaxKeyBytes:       maxKeyBytes,
		MaxValueBytes:     s.o.MaxRequest - s.reserve(1),
		MaxTxnBytes:       s.o.MaxRequest - s.reserve(backend.MaxTxnOps),
		MinTTL:            time.Second,
		TTLSlack:          ttlSlack,
		TTLClock:          backend.ClientClock,
		MinLease:          s.minLease(),
		LinearizableReads: true,
		ForeignEvents:     true,
		FairLock:          true,
		CrossProcessLock:  true,
		DurableFence:      true,
	}
}

// Ping implements backend.Store. It asks whether the root exists, for which ZooKeeper wants no permission.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	_, err := s.exists(ctx, s.link, s.root)
	return err
}

func (s *Store) usable() error {
	if s.bad != nil {
		return s.bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return backend.ErrClosed
	}
	return nil
}

// adopt registers c to be shut with the store.
func (s *Store) adopt(c closer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return backend.ErrClosed
	}
	s.closers[c] = struct{}{}
	return nil
}

func (s *Store) disown(c closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closers, c)
}

// tidy runs f in the background, with a context that ends after two seconds. Close waits for it. It reports false once
// the store is closed.
func (s *Store) tidy(f func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.tidying.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		f(ctx)
	})
	return true
}

// Close implements backend.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.link.close(s.owned)
		return nil
	}
	s.closed = true
	s.end()
	open := make([]closer, 0, len(s.closers))
	for c := range s.closers {
		open = append(open, c)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range open {
		wg.Go(c.shut)
	}
	wg.Wait()
	s.reaper.stop()
	s.tidying.Wait()
	s.leases.close()
	s.link.close(s.owned)
	return nil
}
