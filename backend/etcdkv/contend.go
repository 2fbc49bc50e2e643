package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// seat is a backend.Contender.
type seat struct {
	s     *Store
	name  string
	num   int
	id    string
	key   string
	place backend.Place
	rev   int64 // that created the key: the token

	ctx  context.Context // ends when the seat is lost, released or abandoned
	stop context.CancelFunc
	gone chan struct{} // Lost

	mu       sync.Mutex
	lease    alive
	admitted bool
	over     bool          // lost or released
	done     chan struct{} // of Release
	err      error
}

// Contend implements backend.Store. It takes one request when a contender with
// the same lease has left not long ago, and else two. Shared and slotted
// contenders that Try take one more.
func (s *Store) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if err := s.fitsValue(o.Value); err != nil {
		return nil, err
	}
	end, ok := s.begin()
	if !ok {
		return nil, backend.ErrClosed
	}
	defer end()
	if err := s.schema(ctx); err != nil {
		return nil, err
	}
	for reuse := true; ; reuse = false {
		lease, err := s.leaseFor(ctx, o.Lease, reuse)
		if err != nil {
			return nil, err
		}
		number := s.numbers.take()
		c, err := s.sit(ctx, name, o, lease, number)
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, backend.ErrLocked):
			s.numbers.put(number)
			s.rest(lease)
			return nil, err
		case reuse && isLeaseNotFound(err):
			s.numbers.put(number)
			continue
		}
		// The request may have arrived, or may yet.
		s.work.Go(func() { _ = s.revoke(lease) })
		return nil, err
	}
}

func isLeaseNotFound(err error) bool { return errors.Is(err, rpctypes.ErrLeaseNotFound) }

func (s *Store) sit(ctx context.Context, name string, o backend.ContendOptions, lease alive, number int) (*seat, error) {
	queue := s.queue(name)
	c := &seat{s: s, name: name, num: number, id: s.seatID(o, number), lease: lease, gone: make(chan struct{})}
	c.key, c.place = queue+c.id, placeOf(c.id)
	look := c.ahead(0)
	req := &pb.TxnRequest{Success: []*pb.RequestOp{
		putOp(&pb.PutRequest{Key: []byte(c.key), Value: o.Value, Lease: lease.id}),
		rangeOp(look),
	}}
	for {
		if o.Try {
			newest, err := s.newestSeat(ctx, queue, c.place)
			if err != nil {
				return nil, err
			}
			req.Compare = []*pb.Compare{{
				Key: []byte(queue), RangeEnd: after(queue), Target: pb.Compare_CREATE, Result: pb.Compare_LESS,
				TargetUnion: &pb.Compare_CreateRevision{CreateRevision: newest + 1},
			}}
		}
		resp, err := call(ctx, s, writes, s.kv.Txn, req)
		if err != nil {
			return nil, err
		}
		if !resp.Succeeded {
			if c.exclusive() {
				return nil, backend.ErrLocked
			}
			continue // somebody came in between
		}
		c.rev = resp.Header.Revision
		if wait := c.judge(resp.Responses[1].GetResponseRange().Kvs); wait == nil {
			c.admitted = true
		}
		break
	}
	c.ctx, c.stop = context.WithCancel(s.life)
	if !s.hold(c) {
		c.stop()
		return nil, backend.ErrClosed
	}
	c.guard()
	return c, nil
}

func (c *seat) exclusive() bool { return !c.place.Shared && c.place.Slots <= 1 }

// newestSeat returns the revision that a contender that tries must find
// unsurpassed: if anybody came later it has to look again. An exclusive one
// need not look: there must be nobody.
func (s *Store) newestSeat(ctx context.Context, queue string, p backend.Place) (int64, error) {
	if !p.Shared && p.Slots <= 1 {
		return 0, nil
	}
	resp, err := call(ctx, s, reads, s.kv.Range, allSeats(queue))
	if err != nil {
		return 0, err
	}
	places := make([]backend.Place, 0, len(resp.Kvs)+1)
	for _, kv := range resp.Kvs {
		places = append(places, placeOf(string(kv.Key[len(queue):])))
	}
	if ok, _ := backend.Admitted(append(places, p), len(places)); !ok {
		return 0, backend.ErrLocked
	}
	return resp.Header.Revision, nil
}

// ahead asks for who is in the queue up to revision max (0: all). An exclusive
// contender only needs the last of those before it, whatever is before that.
func (c *seat) ahead(max int64) *pb.RangeRequest {
	r := allSeats(c.s.queue(c.name))
	r.MaxCreateRevision = max
	if c.exclusive() {
		r.SortOrder, r.Limit = pb.RangeRequest_DESCEND, 2
	}
	return r
}

// judge returns whom to wait for, nil if nobody, given the answer to ahead. The
// key is empty if it may be anybody.
func (c *seat) judge(kvs []*mvccpb.KeyValue) (wait []byte) {
	queue := c.s.queue(c.name)
	var places []backend.Place
	var at [][]byte
	for i, kv := range kvs {
		if c.exclusive() {
			kv = kvs[len(kvs)-1-i]
		}
		if kv.CreateRevision < c.rev {
			places, at = append(places, placeOf(string(kv.Key[len(queue):]))), append(at, kv.Key)
		}
	}
	ok, i := backend.Admitted(append(places, c.place), len(places))
	switch {
	case ok:
		return nil
	case i < 0:
		return []byte{}
	}
	return at[i]
}

// Wait implements backend.Contender.
func (c *seat) Wait(ctx context.Context) error {
	var wait backoff.Backoff
	for {
		if err := c.state(ctx); err != nil || c.isAdmitted() {
			return err
		}
		err := c.waitOnce(ctx)
		switch {
		case err == nil:
			wait.Reset()
		case errors.Is(err, backend.ErrLockLost) || final(err) && !errors.Is(err, backend.ErrHistoryLost):
			return err
		default:
			both, stop := c.with(ctx)
			wait.Wait(both)
			stop()
		}
	}
}

// with returns ctx, ended also by the end of the seat.
func (c *seat) with(ctx context.Context) (context.Context, func()) {
	both, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return both, func() { stop(); cancel() }
}

// state is why a call on the seat cannot go on.
func (c *seat) state(ctx context.Context) error {
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	if over && c.s.life.Err() == nil {
		return backend.ErrLockLost
	}
	return c.s.usable(ctx)
}

func (c *seat) isAdmitted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admitted
}

// waitOnce looks at the queue and, unless that admits the seat, waits until
// whoever is in the way has gone.
func (c *seat) waitOnce(ctx context.Context) error {
	resp, err := call(ctx, c.s, reads, c.s.kv.Txn, &pb.TxnRequest{Success: []*pb.RequestOp{
		rangeOp(&pb.RangeRequest{Key: []byte(c.key), KeysOnly: true}),
		rangeOp(c.ahead(c.rev)),
	}})
	if err != nil {
		return err
	}
	if !c.present(resp.Responses[0].GetResponseRange().Kvs) {
		return c.lost()
	}
	block := c.judge(resp.Responses[1].GetResponseRange().Kvs)
	if block == nil {
		c.mu.Lock()
		c.admitted = true
		c.mu.Unlock()
		return nil
	}
	sp := span{from: block}
	if len(block) == 0 {
		queue := c.s.queue(c.name)
		sp = span{[]byte(queue), after(queue)}
	}
	both, stop := c.with(ctx)
	defer stop()
	return c.s.awaitDelete(both, sp, resp.Header.Revision+1)
}

func (c *seat) present(kvs []*mvccpb.KeyValue) bool {
	return len(kvs) > 0 && kvs[0].CreateRevision == c.rev
}

// awaitDelete returns when something in sp is deleted at revision from or later.
func (s *Store) awaitDelete(ctx context.Context, sp span, from int64) error {
	st, err := s.openStream(ctx)
	if err != nil {
		return err
	}
	defer st.close()
	// A stream that is broken says why when it is read.
	_ = st.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: sp.from, RangeEnd: sp.to, StartRevision: from,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT},
	}}})
	for {
		var resp *pb.WatchResponse
		if resp, err = st.recv(); err != nil {
			return err
		}
		switch {
		case resp.CompactRevision > 0:
			return errCompacted
		case resp.Canceled:
			return fmt.Errorf("%w: watch canceled by the server: %s", backend.ErrUnavailable, resp.CancelReason)
		case len(resp.Events) > 0:
			return nil
		}
	}
}

// Token implements backend.Contender: the revision that made the place.
func (c *seat) Token() uint64 { return uint64(c.rev) }

// Check implements backend.Contender.
func (c *seat) Check() backend.Check {
	return backend.Check{If: backend.LockHeld, Key: c.name, Holder: strconv.FormatInt(c.rev, 36) + "@" + c.id}
}

// seatOf reads a Check that a contender made.
func (s *Store) seatOf(ch backend.Check) (key []byte, created int64, err error) {
	rev, id, _ := strings.Cut(ch.Holder, "@")
	created, err = strconv.ParseInt(rev, 36, 64)
	if err != nil || created <= 0 || id == "" || strings.Contains(id, "/") {
		return nil, 0, fmt.Errorf("%w: the check of lock %q was not made by a contender of an etcd store", backend.ErrInvalid, ch.Key)
	}
	return []byte(s.queue(ch.Key) + id), created, nil
}

// Lease implements backend.Contender.
func (c *seat) Lease() time.Duration { return c.lease.ttl }

// Renewed implements backend.Contender.
func (c *seat) Renewed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease.renewed
}

// Lost implements backend.Contender.
func (c *seat) Lost() <-chan struct{} { return c.gone }
