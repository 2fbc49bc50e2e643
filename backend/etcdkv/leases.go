package etcdkv

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// poolWindow is by how much an entry may outlive its TTL so that it can
	// share a lease: within it, a put with TTL is one request.
	poolWindow = 900 * time.Millisecond
	// putLatency is what a put may take until its TTL is no longer counted
	// from when it was applied but from a little before.
	putLatency = 100 * time.Millisecond
)

// leasePool holds the leases that this store's TTL entries are bound to. Only
// its own: with authentication on, etcd refuses a put under a lease to which
// keys are bound that the user must not write.
type leasePool struct {
	mu     sync.Mutex
	leases []*ttlLease
}

// ttlLease is a lease that is never renewed.
type ttlLease struct {
	expires time.Time     // of the entries under it, or a little before; the server's own time is later
	ready   chan struct{} // closed when id or err is known
	id      int64
	err     error
}

// lease returns the ID of a lease whose entries expire no sooner than ttl from
// now, and at most poolWindow later unless the server is slower than that.
func (s *Store) lease(ctx context.Context, ttl time.Duration) (int64, error) {
	s.reaps()
	for margin := poolWindow; ; {
		start := time.Now()
		l, mine := s.pool.take(start, ttl, margin)
		if mine {
			if l.id, l.err = s.grant(ctx, ttl+margin); l.err != nil {
				s.pool.drop(l)
			}
			close(l.ready)
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
		case <-s.life.Done():
		}
		if err := s.usable(ctx); err != nil {
			return 0, err
		}
		switch now := time.Now(); {
		case l.err == nil && expires(l.id).Sub(now) < l.expires.Sub(now):
			s.pool.drop(l) // the wall clock, which the ID goes by, was set forward
		case l.err == nil && !l.expires.Before(now.Add(ttl)):
			return l.id, nil
		case l.err == nil:
			margin = poolWindow + 2*now.Sub(start)
		case mine || !isContext(l.err): // else it was another caller's context that ended
			return 0, l.err
		}
	}
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// take returns a lease that fits, or a new one that the caller has to grant.
func (p *leasePool) take(now time.Time, ttl, margin time.Duration) (l *ttlLease, mine bool) {
	from, to := now.Add(ttl+putLatency), now.Add(ttl+margin)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = slices.DeleteFunc(p.leases, func(l *ttlLease) bool { return l.expires.Before(now) })
	for _, l := range p.leases {
		if !l.expires.Before(from) && !l.expires.After(to) {
			return l, false
		}
	}
	l = &ttlLease{expires: to.Add(-expiryUnit), ready: make(chan struct{})}
	p.leases = append(p.leases, l)
	return l, true
}

func (p *leasePool) drop(l *ttlLease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = slices.DeleteFunc(p.leases, func(o *ttlLease) bool { return o == l })
}

// forget drops the leases with these IDs, after the server refused one.
func (p *leasePool) forget(ids []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = slices.DeleteFunc(p.leases, func(l *ttlLease) bool {
		select {
		case <-l.ready:
			return slices.Contains(ids, l.id)
		default:
			return false
		}
	})
}

// ids returns the leases that were granted.
func (p *leasePool) ids() (ids []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.leases {
		select {
		case <-l.ready:
			ids = append(ids, l.id)
		default:
		}
	}
	return ids
}

// grant makes a lease for entries that expire after d. A lost reply leaves a
// lease without keys, which ends by itself.
func (s *Store) grant(ctx context.Context, d time.Duration) (int64, error) {
	for {
		// The server counts from when the request arrives, so its lease is
		// never over before the entries under it have expired.
		id := leaseID(time.Now().Add(d))
		_, err := call(ctx, s, reads, s.leases.LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: wholeSeconds(d)})
		if !errors.Is(err, rpctypes.ErrLeaseExist) {
			return id, err
		}
	}
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
