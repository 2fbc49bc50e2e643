package etcdkv

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// reaper ends the leases of TTL entries whose time has come although the server
// counts it anew, which it does for all leases when its leader changes. Readers
// do not need it: they go by the lease's ID. It is there for watchers, who are
// told when the key really goes (R24).
//
// It looks at all leases once when it begins, and then whenever a reply shows a
// new raft term: those that are granted later are the server's to end in time.
// It only works for stores that watch or have written entries with a TTL. What
// it does needs the clocks to agree, as the filter on reads does, and there is
// no lease that it may not revoke: the expiry stands in the ID.
type reaper struct {
	mu      sync.Mutex
	active  bool
	running bool
	swept   uint64 // the raft term whose leases are dealt with
	changed chan struct{}
}

// reaps makes the store take part. It looks once for what was prolonged before
// it did, when perhaps nobody was there to see it.
func (s *Store) reaps() {
	r := &s.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.active {
		r.active, r.changed = true, make(chan struct{}, 1)
		r.running = s.term.Load() > 0 && s.spawn(s.reap) // else with the first reply
	}
}

// newTerm is called when a reply shows a later raft term than those before.
func (s *Store) newTerm(term uint64) {
	r := &s.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.active || term <= r.swept:
	case r.running:
		signal(r.changed)
	default:
		r.running = s.spawn(s.reap)
	}
}

func (s *Store) reap() {
	r := &s.reaper
	var wait backoff.Backoff
	for {
		term := s.term.Load()
		ids, err := s.oldLeases()
		switch {
		case err == nil:
			wait.Reset()
			s.reapInTime(term, ids)
		case errors.Is(err, backend.ErrUnavailable):
			if wait.Wait(s.life) {
				continue
			}
		}
		r.mu.Lock()
		if r.swept = term; s.life.Err() != nil || s.term.Load() == term {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
}

// oldLeases returns the leases of TTL entries, those that end first first. A
// user who may not see the leases of others deals with the store's own.
func (s *Store) oldLeases() ([]int64, error) {
	ids := s.pool.ids()
	resp, err := call(s.life, s, reads, s.leases.LeaseLeases, &pb.LeaseLeasesRequest{})
	if err != nil && !errors.Is(err, backend.ErrPermission) {
		return nil, err
	}
	for _, l := range resp.GetLeases() {
		if _, ok := expiry(l.ID); ok {
			ids = append(ids, l.ID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// reapInTime revokes each lease when its entries have expired for everybody,
// unless a leader follows that of term in between.
func (s *Store) reapInTime(term uint64, ids []int64) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, id := range ids {
		at := expires(id).Add(s.o.ClockSkew + rand.N(250*time.Millisecond)) // or all clients would come at once
		timer.Reset(time.Until(at))
		for due := false; !due; {
			select {
			case <-timer.C:
				due = true
			case <-s.reaper.changed: // perhaps to term, before the leases were listed
				if s.term.Load() != term {
					return
				}
			case <-s.life.Done():
				return
			}
		}
		s.reapOne(id)
	}
}

// reapOne revokes a lease, if it is still there. Without a leader it tries again:
// leases are looked at once for each term.
func (s *Store) reapOne(id int64) {
	var wait backoff.Backoff
	for {
		// Asking costs the server no consensus; most are gone by now.
		resp, err := call(s.life, s, reads, s.leases.LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: id})
		if err == nil && resp.TTL >= 1 {
			_, err = call(s.life, s, reads, s.leases.LeaseRevoke, &pb.LeaseRevokeRequest{ID: id})
		}
		if errors.Is(err, backend.ErrUnavailable) && wait.Wait(s.life) {
			continue
		}
		if err != nil {
			s.o.Logger.Debug("etcdkv: an expired lease was not revoked", "error", err)
		}
		return
	}
}
