package consulkv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// Options set up a Store. The zero value works.
type Options struct {
	// Root is the native prefix below which the keys lie, without a slash at
	// its end. Consul drops leading slashes, and so does the Store. "" is
	// the whole KV store.
	Root string
	// Meta is the native name below which locks lie; "": the root followed
	// by "=kv".
	Meta string
	// Logger is told, once each, of foreign names that are no keys and of
	// features that are off for lack of a right. nil: silent.
	Logger *slog.Logger
	// DialTimeout bounds how long a call waits for a connection and, if it has
	// no deadline, how long each of its requests then waits for an answer to
	// begin; 0: 5 s. A read is then ErrUnavailable, a write ErrUncertain.
	DialTimeout time.Duration
	// ClockSkew is by how much the clocks of clients may differ: an entry is
	// kept this much longer than its TTL. 0: 500 ms; negative: none.
	ClockSkew time.Duration
	// WatchBuffer is how many bytes of events one watch buffers for its
	// reader; 0: 4 MiB.
	WatchBuffer int
	// MaxValueBytes and MaxTxnBytes are the server's kv_max_value_size and
	// txn_max_req_len; 0: 512 KiB each, the default of a stock server.
	MaxValueBytes, MaxTxnBytes int
	// MinSessionTTL is the server's session_ttl_min; 0: 10 s.
	MinSessionTTL time.Duration
}

const (
	defaultLimit = 512 << 10 // raft.SuggestedMaxDataSize, the server's default for both of its limits
	maxKeyBytes  = 8 << 10   // Consul has no limit of its own; escaped and in a URL this stays below the agent's 1 MiB of headers
	maxTxnOps    = 128       // agent/txn_endpoint.go, since Consul 1.14
	minTTL       = time.Second
)

// Store is a backend.Store in Consul's KV store.
type Store struct {
	backend.Unimplemented

	o        Options
	space    keys.Space
	broken   error // why the configuration cannot be used; every call returns it
	client   *api.Client
	http     *http.Client
	owned    *http.Transport // to be closed with the Store; nil if the user's
	base     string          // scheme://host and path prefix
	query    string          // parameters of every request, each preceded by "&"
	headers  http.Header
	inFlight chan struct{}
	answers  atomic.Uint64 // that have come
	probe    string        // native name below the root that is never a key
	id       string        // tells this Store's contenders from those of others

	facts facts
	reap  reaper

	seen    atomic.Uint64 // the highest index that the server has shown
	foreign atomic.Int64  // names that are no keys
	schema  atomic.Bool   // the bookkeeping's version was looked at
	serial  atomic.Uint64 // of contenders

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	late   context.Context // of what Close still has to clean up; ends a little later
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	closers map[closer]struct{} // what Close ends: watches, leases, contenders
	lines   map[string]*line
	stop    context.CancelFunc // of late
	done    chan struct{}      // closed when Close is through
}

// closer is something that lives until it is released or the Store closes.
type closer interface {
	// end releases it, within the time that ctx gives.
	end(ctx context.Context)
}

var _ backend.Store = (*Store)(nil)

// New returns a Store on the agent that conf describes, as for api.NewClient;
// nil is api.DefaultConfig. It does no I/O beyond reading the files that conf
// names. If conf cannot be used, each call returns why, as backend.ErrInvalid.
//
// It takes the configuration and not an *api.Client, because the client keeps
// to itself what the contract needs: it reports a transaction that failed
// without its status code, and decodes a list as a whole, where the Store
// reads it entry by entry. With conf.HttpClient set, the two share
// connections, and Close leaves it alone; otherwise the Store has connections
// of its own, none of http.DefaultClient's. [Store.Client] is a client of the
// same configuration.
func New(conf *api.Config, o Options) *Store {
	s := &Store{
		o:        o.withDefaults(),
		closers:  map[closer]struct{}{},
		lines:    map[string]*line{},
		id:       rand.Text(),
		inFlight: make(chan struct{}, maxInFlight),
		done:     make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.late, s.stop = context.WithCancel(context.Background())
	s.facts.init()
	s.reap.init(s)
	s.space = keys.NewSpace(strings.TrimLeft(o.Root, "/"), keys.Consul())
	if o.Meta != "" {
		var err error
		if s.space, err = s.space.WithMeta(strings.Trim(o.Meta, "/")); err != nil {
			s.broken = fmt.Errorf("%w: meta: %w", backend.ErrInvalid, err)
		}
	}
	s.probe = s.space.Prefix("") + "=" + s.id
	if err := s.connect(conf); err != nil {
		s.broken = backend.Because(backend.ErrInvalid, err)
	}
	return s
}

func (o Options) withDefaults() Options {
	if o.DialTimeout <= 0 {
		o.DialTimeout = 5 * time.Second
	}
	switch {
	case o.ClockSkew == 0:
		o.ClockSkew = 500 * time.Millisecond
	case o.ClockSkew < 0:
		o.ClockSkew = 0
	}
	if o.WatchBuffer <= 0 {
		o.WatchBuffer = 4 << 20
	}
	if o.MaxValueBytes <= 0 {
		o.MaxValueBytes = defaultLimit
	}
	if o.MaxTxnBytes <= 0 {
		o.MaxTxnBytes = defaultLimit
	}
	if o.MinSessionTTL <= 0 {
		o.MinSessionTTL = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// connect resolves conf (environment, token file, TLS files) the way
// api.NewClient does, by letting it do so on a copy.
func (s *Store) connect(conf *api.Config) error {
	var c api.Config
	if conf != nil {
		c = *conf
	}
	if c.HttpClient == nil && c.Transport == nil {
		s.owned = newTransport(s.o.DialTimeout)
		c.Transport = s.owned
	}
	client, err := api.NewClient(&c) // completes c
	if err != nil {
		return err
	}
	s.client, s.http = client, c.HttpClient
	host := c.Address
	if strings.HasPrefix(host, "/") {
		host = "localhost" // a Unix socket, which the transport dials whatever the host
	}
	s.base = c.Scheme + "://" + host + strings.TrimRight(c.PathPrefix, "/")
	s.query = params("dc", c.Datacenter) + params("ns", c.Namespace) + params("partition", c.Partition)
	// A list is base64, which hardly compresses; compressing costs the agent
	// more time than the network saves.
	s.headers = http.Header{"Accept-Encoding": {"identity"}}
	if c.Token != "" {
		s.headers.Set("X-Consul-Token", c.Token)
	}
	if c.HttpAuth != nil {
		r := http.Request{Header: s.headers}
		r.SetBasicAuth(c.HttpAuth.Username, c.HttpAuth.Password)
	}
	return nil
}

// Client returns a client of the configuration that New was given, over the
// same connections; nil if that cannot be used.
func (s *Store) Client() *api.Client { return s.client }

// Capabilities implements backend.Store.
func (s *Store) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:          "consul",
		MaxKeyBytes:   maxKeyBytes,
		MaxValueBytes: s.maxValue(),
		MaxTxnBytes:   s.maxTxn(),

		MinTTL:   minTTL,
		TTLSlack: 2*s.o.ClockSkew + time.Second,
		TTLClock: backend.ClientClock,
		MinLease: 2 * s.o.MinSessionTTL,

		LinearizableReads:  true,
		SnapshotList:       true,
		AtomicDeletePrefix: !s.holdsMeta(s.space.Prefix("")),
		ForeignCAS:         false, // a foreign put of what is there changes nothing, not even the index
		ForeignEvents:      true,
		FairLock:           true,
		CrossProcessLock:   true,
		DurableFence:       true,
	}
}

// maxBody is the longest request: the agent raises its limit for transactions
// to that for values.
func (o Options) maxBody() int { return max(o.MaxTxnBytes, o.MaxValueBytes) }

// maxValue is the longest value: all writes are transactions, whose JSON makes
// four bytes of three.
func (s *Store) maxValue() int {
	return min(s.o.MaxValueBytes, (s.o.maxBody()-4<<10)/4*3)
}

// maxTxn is how many bytes of keys and values a transaction carries: that much
// of its JSON is left once the frame of 128 operations with names of usual
// length is taken off. Longer names may hit the limit of the request earlier.
func (s *Store) maxTxn() int { return (s.o.maxBody() - 16<<10) / 4 * 3 }

// holdsMeta reports whether the bookkeeping lies below a native prefix.
func (s *Store) holdsMeta(prefix string) bool {
	return strings.HasPrefix(s.space.Meta()+"/", prefix)
}

// Ping implements backend.Store: a consistent read of a name below the root
// that does not exist. Errors: backend.ErrUnavailable, backend.ErrPermission.
func (s *Store) Ping(ctx context.Context) error {
	_, _, err := s.get(ctx, s.probe, consistent)
	return err
}

// ForeignNames is how many times a list or watch has met a name below the root
// that is no key and was skipped.
func (s *Store) ForeignNames() int64 { return s.foreign.Load() }

// skip counts a name that is no key, and reports the first.
func (s *Store) skip(name string) {
	if s.space.Reserved(name) {
		return
	}
	if s.foreign.Add(1) == 1 {
		s.o.Logger.Warn("consulkv: a name below the root is no key and is skipped; further ones are only counted", "name", name)
	}
}

// name is the native name of key, or ErrInvalidKey.
func (s *Store) name(key string) (string, error) {
	if s.broken != nil {
		return "", s.broken
	}
	if key == "" || len(key) > maxKeyBytes {
		return "", fmt.Errorf("%w: %d bytes, the limit is %d", backend.ErrInvalidKey, len(key), maxKeyBytes)
	}
	return s.space.Name(key), nil
}

// prefix is the native prefix of everything below prefix.
func (s *Store) prefix(prefix string) (string, error) {
	if s.broken != nil {
		return "", s.broken
	}
	if len(prefix) > maxKeyBytes {
		return "", fmt.Errorf("%w: %d bytes, the limit is %d", backend.ErrInvalidKey, len(prefix), maxKeyBytes)
	}
	return s.space.Prefix(prefix), nil
}

// spawn runs f in a goroutine that Close waits for. It reports false, and does
// not run f, once the Store is closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// adopt makes Close end c. It reports false once the Store is closed.
func (s *Store) adopt(c closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closers[c] = struct{}{}
	return true
}

func (s *Store) forget(c closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closers, c)
}

// cleanupTime is how long what was left on the server is tried to be removed
// once nobody waits for it.
const cleanupTime = 2 * time.Second

// Close implements backend.Store. It releases leases and contenders, which
// takes up to two seconds if the server does not answer.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	ending := make([]closer, 0, len(s.closers))
	for c := range s.closers {
		ending = append(ending, c)
	}
	s.mu.Unlock()

	defer close(s.done)
	timer := time.AfterFunc(cleanupTime, s.stop)
	defer timer.Stop()
	s.cancel(backend.ErrClosed)
	var released sync.WaitGroup
	for _, c := range ending {
		released.Go(func() { c.end(s.late) })
	}
	released.Wait()
	s.wg.Wait()
	s.stop()
	if s.owned != nil {
		s.owned.CloseIdleConnections()
	}
	return nil
}

// Why a request was given up: see send.
var (
	errDial   = errors.New("no connection within the dial timeout")
	errSilent = errors.New("no answer within the dial timeout")
)
