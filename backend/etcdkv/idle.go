package etcdkv

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// minLease is the least that a server grants with the default election timeout.
const minLease = 2 * time.Second

// alive is a lease that somebody renews: a contender's or a registration's.
// Unlike the leases of TTL entries it is bound to one key.
type alive struct {
	id      int64
	ttl     time.Duration
	renewed time.Time // when the request that last started it anew was sent
}

// idleLeases keeps the leases of contenders that have left, so that the next
// contender need not ask for one: without, an uncontended lock and unlock takes
// three requests instead of two. A lease that idles ends by itself.
type idleLeases struct {
	mu    sync.Mutex
	byTTL map[int64][]alive
	over  bool // drained for good
}

// maxIdle is how many leases idle for each duration.
const maxIdle = 64

// put reports false if the store has given its leases back.
func (p *idleLeases) put(l alive) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	if p.byTTL == nil {
		p.byTTL = make(map[int64][]alive)
	}
	n := wholeSeconds(l.ttl)
	if len(p.byTTL[n]) < maxIdle {
		p.byTTL[n] = append(p.byTTL[n], l)
	}
	return true
}

// rest puts a lease aside that no key is bound to any more. The caller is in
// begin.
func (s *Store) rest(l alive) {
	if !s.idle.put(l) {
		s.work.Go(func() { _ = s.revoke(l) }) // or it ends by itself
	}
}

// take returns the lease that was put last, if its time has hardly begun.
func (p *idleLeases) take(seconds int64) (alive, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.byTTL[seconds]
	if len(list) == 0 {
		return alive{}, false
	}
	l := list[len(list)-1]
	p.byTTL[seconds] = list[:len(list)-1]
	if time.Since(l.renewed) > l.ttl/4 {
		delete(p.byTTL, seconds) // the others are older
		return alive{}, false
	}
	return l, true
}

func (p *idleLeases) drain() (all []alive) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.byTTL {
		all = append(all, list...)
	}
	p.byTTL, p.over = nil, true
	return all
}

// leaseFor returns a lease of at least ttl that no key is bound to. The caller
// is in begin.
func (s *Store) leaseFor(ctx context.Context, ttl time.Duration, reuse bool) (alive, error) {
	seconds := wholeSeconds(max(ttl, minLease))
	if reuse {
		if l, ok := s.idle.take(seconds); ok {
			return l, nil
		}
	}
	for {
		// With an ID of ours a lease whose reply is lost can be taken back.
		l := alive{id: aliveFrom + rand.Int64N(aliveTo-aliveFrom), renewed: time.Now()}
		resp, err := call(ctx, s, reads, s.leases.LeaseGrant, &pb.LeaseGrantRequest{ID: l.id, TTL: seconds})
		switch {
		case err == nil:
			l.ttl = time.Duration(resp.TTL) * time.Second
			return l, nil
		case errors.Is(err, rpctypes.ErrLeaseExist):
			continue
		case !errors.Is(err, backend.ErrPermission) && !errors.Is(err, backend.ErrInvalid):
			s.work.Go(func() { s.takeBack(l.id) })
		}
		return alive{}, err
	}
}

// takeBackTries is how often a lease is looked for that may have been granted:
// the request may be overtaken by the one that takes it back.
const takeBackTries = 4

// takeBack revokes a lease that may have been granted. One that cannot be
// taken back now has no key, and ends by itself. The caller is in begin.
func (s *Store) takeBack(id int64) {
	ctx, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	wait := backoff.Backoff{Min: 50 * time.Millisecond}
	for missed := 0; missed < takeBackTries; {
		_, err := s.leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		switch err = rpctypes.Error(err); {
		case err == nil:
			return
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			missed++
		case errors.Is(s.fail(ctx, err, false), backend.ErrPermission):
			return
		default:
			s.kick()
		}
		if !wait.Wait(ctx) {
			return
		}
	}
}

// keepAlive starts a lease anew. It reports false if the lease is gone.
func (s *Store) keepAlive(ctx context.Context, id int64) (bool, error) {
	if err := s.usable(ctx); err != nil {
		return false, err
	}
	rctx, cancel := s.bound(ctx, true)
	defer cancel()
	if err := s.connected(rctx); err != nil {
		return false, s.fail(ctx, err, false)
	}
	stream, err := s.leases.LeaseKeepAlive(rctx)
	if err == nil {
		// Of two errors, Recv has the better one.
		_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
		var resp *pb.LeaseKeepAliveResponse
		if resp, err = stream.Recv(); err == nil {
			s.observe(resp.Header)
			return resp.TTL > 0, nil
		}
	}
	err = s.fail(ctx, err, false)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false, nil
	}
	return false, err
}

const (
	// closingTime is how long Close waits for the server to take back what
	// the store still holds there.
	closingTime = 2 * time.Second
	// giveBackAtOnce is how many things it gives back at a time.
	giveBackAtOnce = 16
	// cleanupTry bounds one attempt.
	cleanupTry = time.Second
)

// detached repeats f, which is idempotent, until it succeeds, until nothing is
// left to do because the lease has ended by itself, or until the store has been
// closed for closingTime.
func (s *Store) detached(l alive, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.closing, 2*l.ttl+closingTime)
	defer cancel()
	var wait backoff.Backoff
	for {
		try, done := context.WithTimeout(ctx, cleanupTry)
		err := f(try)
		done()
		if err == nil || errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
			return nil
		}
		err = s.fail(ctx, err, false)
		if errors.Is(err, backend.ErrPermission) || errors.Is(err, backend.ErrInvalid) {
			return err
		}
		s.kick()
		if !wait.Wait(ctx) {
			return err
		}
	}
}

// revoke ends a lease, and the key that is bound to it. A put under it that is
// still on its way will be refused, which deleting the key could not do.
func (s *Store) revoke(l alive) error {
	return s.detached(l, func(ctx context.Context) error {
		_, err := s.leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: l.id})
		return err
	})
}

// begin makes Close wait until end is called, and reports false if the store
// is closed.
func (s *Store) begin() (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.work.Add(1)
	return s.work.Done, true
}

// holding is what Close has to give back.
type holding interface{ abandon() }

// hold reports false if Close came first, and has not seen h.
func (s *Store) hold(h holding) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.held == nil {
		s.held = make(map[holding]struct{})
	}
	s.held[h] = struct{}{}
	return true
}

func (s *Store) drop(h holding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, h)
}

// giveBack releases what is still held, many at a time.
func (s *Store) giveBack(held []holding) {
	idle := s.idle.drain()
	if len(held)+len(idle) == 0 {
		return
	}
	var all sync.WaitGroup
	jobs := make(chan func())
	for range min(giveBackAtOnce, len(held)+len(idle)) {
		all.Go(func() {
			for f := range jobs {
				f()
			}
		})
	}
	for _, h := range held {
		jobs <- h.abandon
	}
	for _, l := range slices.Backward(idle) {
		jobs <- func() { _ = s.revoke(l) } // it would end by itself
	}
	close(jobs)
	all.Wait()
}
