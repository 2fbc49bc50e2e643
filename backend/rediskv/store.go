package rediskv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
)

// Store is a backend.Store on Redis. It is safe for concurrent use.
type Store struct {
	backend.Unimplemented

	client  redis.UniversalClient
	cluster *redis.ClusterClient // client, if it is one
	owned   bool
	// Of a client that the Driver has made; else nil.
	sentinels *sentinels
	unfit     atomic.Bool // a request went out and no connection of the Dialer knew it
	opt       Options
	names     names
	broken    error // why no call can work: an impossible root, a client of an unfit kind
	scripts   scripts
	publish   string // the command: PUBLISH, or SPUBLISH on Redis Cluster

	self       string // names the Store in channels
	reaper     reaper
	tail       tail
	contenders contenders

	opening chan struct{} // a semaphore: one goroutine makes first contact
	// Guarded by opening: the last first contact that met no server, and when it ended.
	unreached   error
	unreachedAt time.Time
	opened      *namespace // guarded by mu; nil until first contact
	caps        backend.Capabilities

	mu         sync.Mutex
	closed     bool
	overlooked bool            // see overlook
	adopting   *adoption       // nil while nobody looks at everything
	epoch      string          // see knownEpoch
	life       context.Context // ends with the Store
	end        context.CancelFunc
	quick      quick
	jobs       chan *job      // to workers that are free
	idle       atomic.Int32   // such workers
	calls      sync.WaitGroup // requests, and what else runs in the background
	cleanups   sync.WaitGroup // what has to reach the server before the client is closed
	closeErr   error
	foreign    atomic.Int64 // names that are no keys
	once       sync.Once
}

var _ backend.Store = (*Store)(nil)

// New returns a Store on client, which it never closes. It does no I/O. What is wrong with the options, or with a client
// of a kind that cannot serve (a Ring, which moves keys between servers without a word), is returned by every call.
//
// The client's own retries do not matter: no request of a Store is sent twice by it.
func New(client redis.UniversalClient, o Options) *Store {
	s := &Store{
		client: client, opt: o.withDefaults(), scripts: newScripts(), publish: "PUBLISH",
		opening: make(chan struct{}, 1), self: rand.Text(),
	}
	s.jobs = make(chan *job)
	s.quick.possible = honoursDeadlines(client)
	s.life, s.end = context.WithCancel(context.Background())
	s.reaper.s, s.tail.s, s.tail.seldom = s, s, seldom
	s.contenders.byID = map[string]*contender{}
	s.contenders.observers = map[*observer]struct{}{}
	s.names, s.broken = newNames(o.Root, o.Meta)
	switch c := client.(type) {
	case *redis.ClusterClient:
		s.cluster, s.publish = c, "SPUBLISH"
		if s.broken == nil {
			s.broken = s.names.inOneSlot()
		}
	case *redis.Ring:
		s.broken = fmt.Errorf("%w: a Ring spreads keys over servers that know nothing of each other", errors.ErrUnsupported)
	}
	s.caps = s.capabilities()
	return s
}

// Client returns the native client.
func (s *Store) Client() redis.UniversalClient { return s.client }

func (s *Store) capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:              "redis",
		MaxKeyBytes:       maxKeyBytes - len(s.names.records),
		MaxValueBytes:     s.opt.MaxValueBytes,
		MaxTxnBytes:       s.opt.MaxValueBytes,
		MinTTL:            time.Second,
		TTLSlack:          2 * time.Second,
		TTLClock:          backend.ServerClock,
		MinLease:          time.Second,
		LinearizableReads: s.cluster == nil || !s.cluster.Options().ReadOnly,
		Lossless:          true,
		Resumable:         true,
		FairLock:          true,
		CrossProcessLock:  true,
	}
}

// Capabilities implements backend.Store. ForeignEvents is unset until the first call has reached the server.
func (s *Store) Capabilities() backend.Capabilities {
	s.mu.Lock()
	defer s.mu.Unlock()
	caps := s.caps
	if s.opened != nil {
		caps.ForeignEvents = s.opened.foreignEvents
	}
	return caps
}

// Ping implements backend.Store. It reads one key of the bookkeeping.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.knock(ctx)
}

// knock finds out whether the server answers, and lets the user read.
func (s *Store) knock(ctx context.Context) error {
	w := &wire{text: "schema"}
	_, err := s.read(ctx, w, []any{"hexists", s.names.head, w})
	return err
}

// Close implements backend.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.end()
		s.abandon()
	}
	s.mu.Unlock()
	s.once.Do(func() {
		if s.opt.Dialer != nil {
			s.opt.Dialer.interrupt(s)
		}
		s.reaper.stop()
		s.cleanups.Wait()
		if s.owned {
			if s.direct() {
				s.calls.Wait() // go-redis prints if a connection is closed while it carries a request
			}
			s.closeErr = s.client.Close() // also ends requests that wait for a reply
			s.sentinels.close()
		}
		s.calls.Wait()
	})
	return s.closeErr
}
