package zookeeperkv

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// Register implements backend.Store. The key is a node like any other, so that it can have children, which an
// ephemeral node cannot. Its stamp is what Renew extends, in one round trip.
func (s *Store) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	l := &lease{s: s, key: key, path: path, id: rand.Text(), turn: make(chan struct{}, 1)}
	l.ttl = max(o.TTL, s.minLease())
	t := backend.Txn{Writes: []backend.Write{{Key: key, Value: value, TTL: l.ttl}}}
	if o.Absent {
		t.Checks = []backend.Check{{If: backend.Absent, Key: key}}
	}
	done, err := s.single(ctx, t, terms{lease: l.id})
	if err != nil {
		return nil, err
	}
	g := done.targets[key]
	l.guard = g.guard
	l.wrote(g.stat2, *g.stamp2)
	s.reaper.start()
	if err := s.adopt(l); err != nil {
		l.shut()
		return nil, err
	}
	return l, nil
}

// lease is a key that is kept alive.
type lease struct {
	s         *Store
	key, path string
	id        string
	ttl       time.Duration

	turn chan struct{} // held while a request changes the lease

	mu    sync.Mutex
	stat  zk.Stat // of the key, as the lease last wrote it
	stamp stamp
	guard int32 // the version of the path's guard, from before stat
	gone  bool
}

// Entry implements backend.Lease.
func (l *lease) Entry() backend.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return record{node: node{stat: l.stat}}.entry(l.key)
}

// TTL implements backend.Lease.
func (l *lease) TTL() time.Duration { return l.ttl }

func (l *lease) wrote(stat zk.Stat, t stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stat, l.stamp = stat, t
}

// take waits for the other calls on this lease.
func (l *lease) take(ctx context.Context) error {
	if err := l.s.usable(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

func (l *lease) pass() { <-l.turn }

// lost ends the lease.
func (l *lease) lost() error {
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	l.s.disown(l)
	return backend.ErrLeaseLost
}

// Renew implements backend.Lease: one Multi that checks that the key is as it was, and writes the stamp.
func (l *lease) Renew(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.pass()
	return l.write(ctx, nil)
}

// Set implements backend.Lease.
func (l *lease) Set(ctx context.Context, value []byte) (backend.Entry, error) {
	if err := l.s.fitsValue(l.path, value); err != nil {
		return backend.Entry{}, err
	}
	if err := l.take(ctx); err != nil {
		return backend.Entry{}, err
	}
	defer l.pass()
	if err := l.write(ctx, append(make([]byte, 0, len(value)), value...)); err != nil {
		return backend.Entry{}, err
	}
	return l.Entry(), nil
}

// write extends the stamp, and writes value if it is not nil.
func (l *lease) write(ctx context.Context, value []byte) error {
	s := l.s
	for {
		l.mu.Lock()
		stat, t, guard, gone := l.stat, l.stamp, l.guard, l.gone
		l.mu.Unlock()
		// From then on another client may take the key for absent.
		if gone || time.Now().UnixMilli() >= t.expires {
			return l.lost()
		}
		t.extend(l.ttl)
		at := slotOf(l.path)
		ops := []any{
			&zk.CheckVersionRequest{Path: l.path, Version: stat.Version},
			&zk.SetDataRequest{Path: s.stampPath(at), Data: t.encode(value == nil), Version: t.version},
			s.guardCheck(guardOf(l.path), guard),
		}
		if value != nil {
			ops[0] = &zk.SetDataRequest{Path: l.path, Data: value, Version: stat.Version}
		}
		res, _, err := s.multi(ctx, s.link, ops, nil)
		if err == nil {
			t.version = res[1].Stat.Version
			if value != nil {
				stat = *res[0].Stat
				t.tie = stat.Mzxid
			}
			l.wrote(stat, t)
			return nil
		}
		if !moved(err) {
			return err
		}
		if err := l.look(ctx); err != nil {
			return err
		}
	}
}

// look finds out whether the key is still the lease's after something has moved: a neighbour's delete, the reaper's
// listing, or a write of its own whose reply was lost.
func (l *lease) look(ctx context.Context) error {
	s := l.s
	s.guards.forget(guardOf(l.path))
	if err := s.link.sync(ctx, s.root).wait(ctx, true); err != nil {
		return err
	}
	guard, err := s.guards.of(ctx, guardOf(l.path))
	if err != nil {
		return err
	}
	r, err := s.record(ctx, s.link, l.path, s.head)
	if err != nil {
		return err
	}
	if !s.live(r) || r.stamp == nil || r.stamp.lease != l.id {
		return l.lost()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stat, l.stamp, l.guard = r.stat, *r.stamp, guard
	return nil
}

// Release implements backend.Lease. The key is deleted in the background if ctx ends first.
func (l *lease) Release(ctx context.Context) error {
	l.mu.Lock()
	gone := l.gone
	l.mu.Unlock()
	if gone {
		return nil
	}
	done := make(chan error, 1)
	if !l.s.tidy(func(ctx context.Context) { done <- l.remove(ctx) }) {
		return backend.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
}

// remove deletes the key if it is still the lease's.
func (l *lease) remove(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		defer l.pass()
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
	for {
		l.mu.Lock()
		gone, rev := l.gone, backend.Revision(l.stat.Mzxid)
		l.mu.Unlock()
		if gone {
			return nil
		}
		_, err := l.s.commit(ctx, backend.Txn{
			Checks: []backend.Check{{If: backend.AtRevision, Key: l.key, Revision: rev}},
			Writes: []backend.Write{{Key: l.key, Delete: true}},
		}, terms{})
		if err == nil {
			l.lost()
			return nil
		}
		if !isConflict(err) {
			return err
		}
		if l.look(ctx) != nil {
			return nil // somebody else's by now
		}
	}
}

// shut ends the lease with the store.
func (l *lease) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l.remove(ctx)
}
