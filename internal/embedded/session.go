package embedded

import (
	"context"
	"sync"

	"github.com/polykv/kv/backend"
)

// Session is one client of an embedded store: what it opened, it closes. Its
// watchers and contenders carry the channel Done to tell whose they are.
type Session struct {
	done chan struct{}

	mu     sync.Mutex
	leases map[*Lease]struct{} // registered and not known to have ended
}

// NewSession returns an open session.
func NewSession() *Session {
	return &Session{done: make(chan struct{}), leases: map[*Lease]struct{}{}}
}

// Done is closed when the session is.
func (s *Session) Done() <-chan struct{} { return s.done }

// Closed reports whether Done is closed.
func (s *Session) Closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Usable is the error of a call that must not begin: ErrClosed, or that of ctx.
func (s *Session) Usable(ctx context.Context) error {
	if s.Closed() {
		return backend.ErrClosed
	}
	return backend.ContextError(ctx)
}

func (s *Session) add(l *Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases != nil {
		s.leases[l] = struct{}{}
	}
}

func (s *Session) remove(l *Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, l)
}

// Close closes the session and returns its leases, for the store to release.
// first is false if it was closed before.
func (s *Session) Close() (leases []*Lease, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases == nil {
		return nil, false
	}
	for l := range s.leases {
		leases = append(leases, l)
	}
	s.leases = nil
	close(s.done)
	return leases, true
}
