package consulkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// lease is a backend.Lease: a key that a session owns.
type lease struct {
	s       *Store
	key     string
	name    string
	session string
	ttl     time.Duration

	busy chan struct{} // held while the key or the session is worked on

	mu    sync.Mutex
	entry backend.Entry
	over  bool          // lost or released
	ended chan struct{} // closed when Release, or the loss, was cleaned up
}

// Register implements backend.Store, in two requests: a session, and one
// transaction that writes the key and binds it. The TTL is that of the session,
// doubled as the server does: at least 20 s on a stock server, at most 48 h.
// It needs the right to write sessions on the agent's node.
//
// A put over a registered key, by this library, takes it from the session. A
// put by another program does not: it goes with the session, unless the
// registrant notices first, at its next Renew, and sets the value free.
//
// Errors: as for Put.
func (s *Store) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	if err := s.fits(value); err != nil {
		return nil, err
	}
	ttl, err := s.lease(o.TTL)
	if err != nil {
		return nil, err
	}
	value = append([]byte(nil), value...) // the caller's, if it does not wait
	l, err := detached(ctx, s, func(ctx context.Context) (*lease, error) {
		id, err := s.startSession(ctx, ttl)
		if err != nil {
			return nil, err
		}
		l := &lease{s: s, key: key, name: name, session: id, ttl: ttl, busy: make(chan struct{}, 1), ended: make(chan struct{})}
		p, err := s.bind(ctx, l, value, o.Absent)
		if err == nil && !s.adopt(l) {
			err = backend.ErrClosed
		}
		if err != nil {
			s.discard(id, ttl, err)
			return nil, err
		}
		l.entry = written(key, p)
		return l, nil
	}, func(ctx context.Context, l *lease) { l.end(ctx) })
	if err != nil {
		if ctx.Err() != nil {
			err = backend.Because(backend.ErrUncertain, err)
		}
		return nil, err
	}
	return l, nil
}

// bind writes the key and gives it to the session.
func (s *Store) bind(ctx context.Context, l *lease, value []byte, absent bool) (api.KVPair, error) {
	lock := txnOp{kvOp{Verb: verbLock, Key: l.name, Session: l.session, Value: value, Flags: leaseFlags()}}
	ops := []txnOp{lock} // fails if another session owns the key
	if absent {
		ops = []txnOp{checkAbsent(l.name), lock}
	}
	var wait backoff.Backoff
	for {
		o, err := s.apply(ctx, ops)
		if err != nil {
			return api.KVPair{}, err
		}
		if o.ok() {
			return o.of(l.name), nil
		}
		if absent {
			if err := s.clear(ctx, l.name); err != nil {
				return api.KVPair{}, err
			}
		} else {
			f, ok, err := s.get(ctx, l.name, consistent)
			if err != nil {
				return api.KVPair{}, err
			}
			ops = []txnOp{lock}
			if ok && f.session != "" {
				ops = []txnOp{
					checkIndex(l.name, f.modify),
					{kvOp{Verb: verbUnlock, Key: l.name, Session: f.session, Value: f.value, Flags: scratch}},
					lock,
				}
			}
		}
		if err := s.permitted(ctx, l.name); err != nil {
			return api.KVPair{}, err
		}
		if alive, err := s.renewSession(ctx, l.session); err != nil {
			return api.KVPair{}, err
		} else if !alive {
			return api.KVPair{}, fmt.Errorf("%w: the session ended at once", backend.ErrUnavailable)
		}
		if !wait.Wait(ctx) {
			return api.KVPair{}, backend.ContextError(ctx)
		}
	}
}

// Entry implements backend.Lease.
func (l *lease) Entry() backend.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry
}

// TTL implements backend.Lease.
func (l *lease) TTL() time.Duration { return l.ttl }

// acquire waits for its turn, and fails with ErrLeaseLost if there is nothing
// left to work on.
func (l *lease) acquire(ctx context.Context) error {
	select {
	case l.busy <- struct{}{}:
	case <-ctx.Done():
		return backend.ContextError(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		<-l.busy
		if l.s.ctx.Err() != nil {
			return backend.ErrClosed
		}
		return backend.ErrLeaseLost
	}
	return nil
}

// Renew implements backend.Lease, in two requests: the session is renewed, and
// the key is looked at.
func (l *lease) Renew(ctx context.Context) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer func() { <-l.busy }()
	ok, err := l.s.renewSession(ctx, l.session)
	if err == nil && ok {
		ok, err = l.look(ctx)
	}
	if err == nil && !ok {
		l.lose()
		err = backend.ErrLeaseLost
	}
	return err
}

// look reads the key, and reports whether it is still the lease's own write,
// which may be one whose reply was lost or is yet to come.
func (l *lease) look(ctx context.Context) (bool, error) {
	f, ok, err := l.s.get(ctx, l.name, consistent)
	if err != nil || !ok || !l.owns(f) {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entry = backend.Entry{Key: l.key, Revision: backend.Revision(f.modify), Created: backend.Revision(f.create)}
	return true, nil
}

// owns reports whether the lease wrote f: nobody else binds a key to its session,
// and a set by another program, which leaves it there, has other flags.
func (l *lease) owns(f found) bool { return f.session == l.session && isKind(f.flags, kindLease) }

// Set implements backend.Lease, in one request, and two more after one whose
// reply was lost.
func (l *lease) Set(ctx context.Context, value []byte) (backend.Entry, error) {
	if err := l.s.fits(value); err != nil {
		return backend.Entry{}, err
	}
	if err := l.acquire(ctx); err != nil {
		return backend.Entry{}, err
	}
	defer func() { <-l.busy }()
	for {
		ops := []txnOp{
			{kvOp{Verb: verbCheckSession, Key: l.name, Session: l.session}},
			checkIndex(l.name, uint64(l.Entry().Revision)),
		}
		o, err := l.s.apply(ctx, overwrite(ops, l.name, value, leaseFlags()))
		if err != nil {
			return backend.Entry{}, err
		}
		if o.ok() {
			p := o.of(l.name)
			l.s.wrote(p)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.entry = written(l.key, p)
			return l.entry, nil
		}
		// The revision is another one also after a Set whose reply was lost.
		ok, err := l.look(ctx)
		if err != nil {
			return backend.Entry{}, err
		}
		if !ok {
			l.lose()
			return backend.Entry{}, backend.ErrLeaseLost
		}
	}
}

// lose ends a lease whose key is not its own any more. The session goes, in the
// background; what somebody else has written under it does not.
func (l *lease) lose() {
	if l.finish() && !l.s.spawn(func() { l.cleanup(l.s.late) }) {
		go l.cleanup(l.s.late) // Close has begun, and waits for it in end
	}
}

// finish reports whether the caller is the one to clean up.
func (l *lease) finish() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.over
	l.over = true
	return first
}

func (l *lease) end(ctx context.Context) {
	if l.finish() {
		l.cleanup(ctx)
	}
	<-l.ended
}

// Release implements backend.Lease, in two requests.
func (l *lease) Release(ctx context.Context) error {
	if l.finish() && !l.s.spawn(func() { l.cleanup(l.s.late) }) {
		go l.cleanup(l.s.late) // Close has begun, and waits for it in end
	}
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		// The rest goes on in the background. A moment's grace lets a
		// deferred Release with an ended context succeed without an error.
		select {
		case <-l.ended:
			return nil
		default:
			return backend.ContextError(ctx)
		}
	}
}

// cleanup deletes the key if it is still the lease's, sets it free if somebody
// else has written it under the session, and ends the session.
func (l *lease) cleanup(ctx context.Context) {
	defer close(l.ended)
	defer l.s.forget(l)
	ctx, cancel := context.WithTimeout(ctx, l.ttl)
	defer cancel()
	err := l.s.retry(ctx, func(ctx context.Context) error {
		if err := l.let(ctx); err != nil {
			return err
		}
		return l.s.endSession(ctx, l.session)
	})
	if err != nil {
		l.s.o.Logger.Warn("consulkv: a released key is left to its lease's end", "key", l.key, "err", err)
	}
}

var errChanged = errors.New("the key changed meanwhile")

// let leaves nothing that the end of the session would delete wrongly.
func (l *lease) let(ctx context.Context) error {
	o, err := l.s.run(ctx, []txnOp{
		{kvOp{Verb: verbCheckSession, Key: l.name, Session: l.session}},
		checkIndex(l.name, uint64(l.Entry().Revision)),
		{kvOp{Verb: verbDelete, Key: l.name}},
	}, true, true)
	if err != nil || o.ok() {
		return err
	}
	f, ok, err := l.s.getLate(ctx, l.name)
	if err != nil || !ok || f.session != l.session {
		return err
	}
	last := txnOp{kvOp{Verb: verbUnlock, Key: l.name, Session: l.session, Value: f.value, Flags: f.flags}}
	if l.owns(f) {
		last = txnOp{kvOp{Verb: verbDelete, Key: l.name}}
	}
	o, err = l.s.run(ctx, []txnOp{checkIndex(l.name, f.modify), last}, true, true)
	if err == nil && !o.ok() {
		err = fmt.Errorf("%w: %w", backend.ErrUnavailable, errChanged)
	}
	return err
}
