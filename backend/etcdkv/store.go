package etcdkv

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

const name = "etcd"

// Options are the terms of a Store. The zero value works.
type Options struct {
	// Root is the native prefix of every key, verbatim: "traefik" and
	// "/traefik" are different roots. "" is the whole key space.
	Root string
	// Meta is where the library keeps its bookkeeping (the queues of locks):
	// a sibling of Root by default, Root followed by "=kv".
	Meta string
	// Logger is told what cannot be returned as an error. nil: silent.
	Logger *slog.Logger
	// DialTimeout bounds the wait for a connection and, for a call whose
	// context has no deadline, the wait for the answer (at least 5 s then).
	// 0: 5 s.
	DialTimeout time.Duration
	// ClockSkew is how far the clocks of clients may be apart: an expired
	// entry is hidden so much after its time. 0: 500 ms.
	ClockSkew time.Duration
	// WatchBuffer is how many bytes of events a watch holds for a reader
	// that does not come; beyond, the server holds the rest. 0: 4 MiB.
	WatchBuffer int
	// MaxRequestBytes is the server's --max-request-bytes. 0: its default,
	// 1.5 MiB.
	MaxRequestBytes int
}

const (
	defaultDialTimeout = 5 * time.Second
	defaultClockSkew   = 500 * time.Millisecond
	defaultWatchBuffer = 4 << 20
	defaultMaxRequest  = 1.5 * 1024 * 1024

	// maxKeyBytes is this driver's: etcd only bounds the whole request, and
	// a conditional write names its key three times.
	maxKeyBytes = 16 << 10
	// requestOverhead is what a request has besides keys and values: the
	// framing, and the header that the server adds before it measures, with
	// the name of the user in it.
	requestOverhead = 1 << 10
)

// Store is a backend.Store over an etcd cluster.
type Store struct {
	backend.Unimplemented

	client *clientv3.Client
	leave  func() error // closes the client, if that is the store's to do
	conn   *grpc.ClientConn
	kv     pb.KVClient
	leases pb.LeaseClient
	watch  pb.WatchClient
	maint  pb.MaintenanceClient

	o     Options
	space keys.Space
	bad   error // what New could not refuse; each call returns it

	pool       leasePool
	idle       idleLeases
	instance   string // tells this store's contenders from those of others
	numbers    seatNumbers
	reaper     reaper
	streaming  atomic.Int32 // whether the server has RangeStream: see list.go
	foreign    foreignNames
	lastKick   atomic.Int64 // when the connection was last told to try again, in Unix ns
	cluster    atomic.Uint64
	term       atomic.Uint64 // the highest raft term seen
	schemaOK   atomic.Bool   // the bookkeeping's version was looked at
	progressOK atomic.Bool   // the server was seen to order its progress responses

	life    context.Context // ends with Close, its cause is ErrClosed
	end     context.CancelCauseFunc
	closing context.Context // ends closingTime later, or as Close returns
	giveUp  context.CancelFunc
	mu      sync.Mutex // guards what follows, and work.Add against work.Wait
	closed  bool
	held    map[holding]struct{}
	work    sync.WaitGroup
}

// New returns a Store over client, which stays the caller's to close. It does
// no I/O and cannot fail; what is wrong in o is the error of every call.
//
// The store talks over the client's connection, with its credentials and its
// balancer, and not through the client's KV, Lease and Watcher fields: those
// hide whether a request was sent, queue watch events without a bound, and may
// have been replaced. Use Options.Root in place of a namespace wrapper.
func New(client *clientv3.Client, o Options) *Store {
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.ClockSkew <= 0 {
		o.ClockSkew = defaultClockSkew
	}
	if o.WatchBuffer <= 0 {
		o.WatchBuffer = defaultWatchBuffer
	}
	if o.MaxRequestBytes <= 0 {
		o.MaxRequestBytes = defaultMaxRequest
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	conn := client.ActiveConnection()
	s := &Store{
		client:   client,
		conn:     conn,
		kv:       pb.NewKVClient(conn),
		leases:   pb.NewLeaseClient(conn),
		watch:    pb.NewWatchClient(conn),
		maint:    pb.NewMaintenanceClient(conn),
		o:        o,
		instance: rand.Text()[:16],
		space:    keys.NewSpace(o.Root, keys.Verbatim()),
	}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.closing, s.giveUp = context.WithCancel(context.Background()) // outlives life: what is held is given back in it
	if o.Meta != "" {
		space, err := s.space.WithMeta(o.Meta)
		if err != nil {
			s.bad = fmt.Errorf("%w: Meta: %w", backend.ErrInvalid, err)
		}
		s.space = space
	}
	if o.MaxRequestBytes < 16*maxKeyBytes {
		s.bad = fmt.Errorf("%w: MaxRequestBytes is below %d", backend.ErrInvalid, 16*maxKeyBytes)
	}
	return s
}

// Client returns the native client.
func (s *Store) Client() *clientv3.Client { return s.client }

// Capabilities implements backend.Store.
func (s *Store) Capabilities() backend.Capabilities {
	return backend.Capabilities{
		Name:               name,
		MaxKeyBytes:        maxKeyBytes - max(len(s.space.Name("")), len(s.space.Meta())) - 1,
		MaxValueBytes:      s.maxValue(),
		MaxTxnBytes:        s.maxTxn(),
		MinTTL:             time.Second,
		TTLSlack:           time.Second + 2*s.o.ClockSkew,
		TTLClock:           backend.ClientClock,
		MinLease:           minLease,
		LinearizableReads:  true,
		Lossless:           true,
		Resumable:          true,
		SnapshotList:       true,
		AtomicDeletePrefix: true,
		ForeignCAS:         true,
		ForeignEvents:      true,
		FairLock:           true,
		CrossProcessLock:   true,
		DurableFence:       true,
	}
}

// Ping implements backend.Store: a linearizable read inside the root.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.current(ctx, s.probeKey(""))
	return err
}

// Adopt implements backend.Store: etcd tells of every write by itself.
func (s *Store) Adopt(ctx context.Context, prefix string) (int64, error) {
	return 0, s.usable(ctx)
}

// Close implements backend.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.end(backend.ErrClosed)
	if first {
		time.AfterFunc(closingTime, s.giveUp)
		held := slices.Collect(maps.Keys(s.held))
		s.work.Go(func() { s.giveBack(held) })
	}
	s.mu.Unlock()
	s.work.Wait()
	s.giveUp()
	if first && s.leave != nil {
		return s.leave()
	}
	return nil
}

// spawn runs f in a goroutine that Close waits for, and reports false if the
// store is closed already. f has to end soon after s.life does.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.work.Go(f)
	return true
}
