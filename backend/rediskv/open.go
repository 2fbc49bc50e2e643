package rediskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// namespace is what first contact has told.
type namespace struct {
	foreignEvents bool // keyspace notifications are on
	readOnly      bool // the user may not run the scripts that write
}

// open makes first contact, once: it creates the bookkeeping, looks once for keys that were there before it, and finds
// out whether the server sends keyspace notifications.
func (s *Store) open(ctx context.Context) error {
	if s.broken != nil {
		return s.broken
	}
	if s.namespace() != nil {
		return nil
	}
	asked := time.Now()
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return backend.ContextError(ctx)
	case <-s.life.Done():
		return backend.ErrClosed
	}
	if s.namespace() != nil {
		return nil
	}
	// Many calls may wait for the first contact. If it failed while this one waited, it would fail again, after another
	// dial timeout for each of those before it.
	if s.unreached != nil && s.unreachedAt.After(asked) {
		return s.unreached
	}
	first, cancel := context.WithTimeout(ctx, s.opt.DialTimeout)
	defer cancel()
	// A short request comes first, because the server answers a long one of somebody who has shown no password by closing
	// the connection.
	err := s.knock(first)
	var reply []any
	known := err == nil
	if known {
		reply, err = s.runOpen(first)
	}
	if err != nil && first.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer within %v", backend.ErrUnavailable, s.opt.DialTimeout)
	}
	if errors.Is(err, backend.ErrUnavailable) {
		s.unreached, s.unreachedAt = err, time.Now()
	}
	ns := &namespace{}
	switch {
	case known && errors.Is(err, backend.ErrPermission):
		// A reader needs no scripts but those that read, and no watch works without a log that somebody keeps.
		ns.readOnly = true
		s.opt.Logger.Info("redis: no right to write the bookkeeping; foreign changes are not adopted", "meta", s.names.space.Meta())
	case err != nil:
		return err
	case len(reply) < 5:
		return fmt.Errorf("%w: first contact", backend.ErrCorrupt)
	case text(reply[4]) == "":
		return fmt.Errorf("%w: the server is older than Redis 7.0", errors.ErrUnsupported)
	default:
		if ns.foreignEvents, err = s.probe(ctx); err != nil {
			return err
		}
		if text(reply[3]) != "1" {
			if err := s.adoptFirst(ctx); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	s.opened = ns
	s.mu.Unlock()
	return nil
}

// openPatiently is open for what goes on while the server is away: it waits for it from the beginning on.
func (s *Store) openPatiently(ctx context.Context) error {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(s.life, stop)()
	var wait backoff.Backoff
	for {
		err := s.open(ctx)
		switch {
		case !errors.Is(err, backend.ErrUnavailable):
			return err
		case wait.Wait(waiting):
		case ctx.Err() != nil:
			return backend.ContextError(ctx)
		default:
			return backend.ErrClosed
		}
	}
}

func (s *Store) namespace() *namespace {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// reopen makes the bookkeeping again, after a script found none: the server has lost everything.
func (s *Store) reopen(ctx context.Context) error {
	_, err := s.runOpen(ctx)
	return err
}

func (s *Store) runOpen(ctx context.Context) ([]any, error) {
	names, args := s.frame(0)
	reply, err := s.runRead(ctx, s.scripts.open, names, append(args, s.knownEpoch())...) // a second time does nothing
	if err == nil && len(reply) > 1 {
		s.knows(text(reply[1]))
	}
	return reply, err
}

// knownEpoch is the epoch of the bookkeeping as the Store last saw it.
func (s *Store) knownEpoch() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

func (s *Store) knows(epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = epoch
}

// adoptFirst adopts what was below the root before the bookkeeping.
func (s *Store) adoptFirst(ctx context.Context) error {
	if err := s.adoptAll(ctx); err != nil {
		return err
	}
	names, args := s.frame(0)
	_, err := s.runRead(ctx, s.scripts.adopted, names, args...)
	return err
}
