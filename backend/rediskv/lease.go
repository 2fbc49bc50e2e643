package rediskv

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// lease is a key with a TTL and a name in its record, by which its owner knows it again.
type lease struct {
	s    *Store
	key  string
	name string
	ttl  time.Duration

	mu    sync.Mutex
	entry backend.Entry
	over  bool // lost or released
}

// Register implements backend.Store. It is one round trip.
func (s *Store) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	if err := s.checkSize(key, value); err != nil {
		return nil, err
	}
	l := &lease{s: s, key: key, name: rand.Text(), ttl: max(o.TTL, s.caps.MinLease)}
	what := op{key: key, condition: '-', action: 'p', value: value, ttl: ttlArgument(l.ttl, false), lease: l.name}
	if o.Absent {
		what.condition = 'a'
	}
	res, err := s.write(ctx, []op{what})
	if err != nil {
		return nil, err
	}
	if res.failed >= 0 {
		return nil, backend.ErrExists
	}
	l.entry = res.entry(0, key)
	return l, nil
}

func (l *lease) Entry() backend.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry
}

func (l *lease) TTL() time.Duration { return l.ttl }

func (l *lease) Renew(ctx context.Context) error {
	_, err := l.do(ctx, op{action: 't', ttl: ttlArgument(l.ttl, false)})
	return err
}

func (l *lease) Set(ctx context.Context, value []byte) (backend.Entry, error) {
	if err := l.s.checkSize(l.key, value); err != nil {
		return backend.Entry{}, err
	}
	res, err := l.do(ctx, op{action: 'p', value: value, ttl: ttlArgument(l.ttl, false), lease: l.name})
	if err != nil {
		return backend.Entry{}, err
	}
	e := res.entry(0, l.key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Revision > l.entry.Revision {
		l.entry = e
	}
	return e, nil
}

func (l *lease) Release(ctx context.Context) error {
	l.mu.Lock()
	over := l.over
	l.over = true
	l.mu.Unlock()
	if over {
		return nil
	}
	return l.s.finish(ctx, func(ctx context.Context) error {
		return repeat(ctx, func() error {
			_, err := l.s.write(ctx, []op{{key: l.key, condition: 'l', of: l.name, action: 'd'}})
			return err
		})
	})
}

// do runs what, if the key is still the lease's.
func (l *lease) do(ctx context.Context, what op) (result, error) {
	l.mu.Lock()
	over := l.over
	l.mu.Unlock()
	if over {
		return result{}, backend.ErrLeaseLost
	}
	what.key, what.condition, what.of = l.key, 'l', l.name
	res, err := l.s.write(ctx, []op{what})
	if err == nil && res.failed >= 0 {
		l.mu.Lock()
		l.over = true
		l.mu.Unlock()
		err = backend.ErrLeaseLost
	}
	return res, err
}
