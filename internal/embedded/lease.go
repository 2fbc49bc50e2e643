package embedded

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// Keeper is what a Lease asks of its store. Each method is one write step.
// ErrLeaseLost tells that the key is no longer the lease's.
type Keeper interface {
	RenewLease(ctx context.Context, key string, lease backend.Revision, ttl time.Duration) error
	SetLease(ctx context.Context, key string, lease backend.Revision, value []byte) (backend.Entry, error)
	ReleaseLease(ctx context.Context, key string, lease backend.Revision) error
}

// Lease implements backend.Lease. It is called by the revision of the write
// that registered its key.
type Lease struct {
	keeper  Keeper
	session *Session
	key     string
	ttl     time.Duration
	id      backend.Revision

	mu    sync.Mutex
	entry backend.Entry
	ended bool // lost or released
}

// NewLease returns the lease of session s that registered e, under a TTL of ttl.
func NewLease(k Keeper, s *Session, e backend.Entry, ttl time.Duration) *Lease {
	l := &Lease{keeper: k, session: s, key: e.Key, ttl: ttl, id: e.Revision, entry: e}
	s.add(l)
	return l
}

// Key is the key that the lease keeps.
func (l *Lease) Key() string { return l.key }

// ID is the revision of the write that registered the key.
func (l *Lease) ID() backend.Revision { return l.id }

// Entry implements backend.Lease.
func (l *Lease) Entry() backend.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry
}

// TTL implements backend.Lease.
func (l *Lease) TTL() time.Duration { return l.ttl }

func (l *Lease) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

func (l *Lease) finish() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.session.remove(l)
}

// note remembers a loss, which is final, and passes err on.
func (l *Lease) note(err error) error {
	if errors.Is(err, backend.ErrLeaseLost) {
		l.finish()
	}
	return err
}

// Renew implements backend.Lease.
func (l *Lease) Renew(ctx context.Context) error {
	if l.over() {
		return backend.ErrLeaseLost
	}
	return l.note(l.keeper.RenewLease(ctx, l.key, l.id, l.ttl))
}

// Set implements backend.Lease.
func (l *Lease) Set(ctx context.Context, value []byte) (backend.Entry, error) {
	if l.over() {
		return backend.Entry{}, backend.ErrLeaseLost
	}
	e, err := l.keeper.SetLease(ctx, l.key, l.id, value)
	if err != nil {
		return backend.Entry{}, l.note(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Revision > l.entry.Revision {
		l.entry = e
	}
	return e, nil
}

// Release implements backend.Lease.
func (l *Lease) Release(ctx context.Context) error {
	if l.over() {
		return nil
	}
	err := l.keeper.ReleaseLease(ctx, l.key, l.id)
	if errors.Is(err, backend.ErrLeaseLost) {
		err = nil
	}
	if err == nil {
		l.finish()
	}
	return err
}
