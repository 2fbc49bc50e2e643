package kv

import (
	"context"
	"errors"

	"github.com/polykv/kv/backend"
)

// next returns the next event.
func (s *subscription) next(ctx context.Context) (backend.Event, error) {
	s.nextMu.Lock()
	defer s.nextMu.Unlock()
	for {
		switch {
		case s.err != nil:
			return backend.Event{}, s.err
		case s.ctx.Err() != nil:
			s.err = s.endError()
			continue
		case ctx.Err() != nil:
			return backend.Event{}, contextError(ctx)
		}
		ev, ok, err := s.step(ctx)
		switch {
		case err != nil && s.ctx.Err() != nil:
			s.err = s.endError()
		case err != nil && ctx.Err() != nil:
			return backend.Event{}, contextError(ctx)
		case errors.Is(err, ErrUnavailable), errors.Is(err, ErrHistoryLost) && s.listing():
			// The stream survives what the hub's upstream survives. A list that
			// was overtaken by changes is taken up behind what it has shown.
			s.pause(ctx)
		case err != nil:
			s.err = err
			s.cancel(&closedFor{err}) // for those who wait for the reader in Sync
		case ok && s.tells(ev):
			s.backoff.Reset()
			return ev, nil
		}
	}
}

// either is a context that ends with the call of next and with the stream,
// since close waits for next.
func (s *subscription) either(ctx context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return both, func() {
		stop()
		cancel()
	}
}

// pause waits until the next attempt.
func (s *subscription) pause(ctx context.Context) {
	ctx, cancel := s.either(ctx)
	defer cancel()
	s.backoff.Wait(ctx)
}

// listing reports whether step takes from a list, and so has its errors.
func (s *subscription) listing() bool { return s.list != nil || s.again != nil }

// tells reports whether ev is to be delivered. What a reader gets of a resync is
// one Resynced and one Synced, the last of all that were under way.
func (s *subscription) tells(ev backend.Event) bool {
	switch ev.Kind {
	case Resynced:
		if s.resync {
			return false
		}
		s.resync = true
	case Synced:
		if s.begun && !s.resync {
			return false
		}
		s.begun, s.resync = true, false
	}
	return true
}

// step takes from the first source that has something, or waits. It may
// return nothing.
func (s *subscription) step(ctx context.Context) (ev backend.Event, ok bool, err error) {
	switch {
	case len(s.ready) > 0:
		ev = s.ready[0]
		s.ready = s.ready[1:]
		return ev, true, nil
	case s.list != nil:
		return s.fromList(ctx)
	case s.mend != nil:
		return ev, false, s.mendSome(ctx)
	case s.again != nil:
		return ev, false, s.relistSome(ctx)
	case s.doubt.open():
		return ev, false, s.clearUp(ctx)
	}
	s.h.mu.Lock()
	if s.over {
		s.listAgain()
		s.h.mu.Unlock()
		return ev, false, nil
	}
	q, ok := s.queue.pop()
	if q.relist { // while the lock is held, so that a repair meets it in the queue or under way
		if s.gap {
			s.passOver()
			s.relist(nil)
		}
		s.h.mu.Unlock()
		return ev, false, nil
	}
	lagging, hubErr, ended := s.lagging, s.h.err, s.ended
	repairing := s.h.repairing && hubErr == nil
	stale := ok && s.stale(q.Event)
	s.h.mu.Unlock()
	switch {
	case stale:
		return ev, false, nil
	case ok:
		return s.filter(q)
	case ended != nil:
		return ev, false, ended
	case lagging && s.replay != nil:
		return s.fromReplay(ctx)
	case lagging && !repairing:
		return ev, false, s.startReplay(ctx)
	case hubErr != nil:
		return ev, false, hubErr
	}
	// There is nothing yet; or this reader missed something and would read it
	// from the store, and the differences that are being worked out do not
	// know what it would have read.
	select {
	case <-s.signal:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return ev, false, nil
}

// endError is why s.ctx ended: what came first of close, an error that is final
// and the end of the context that the stream was opened with.
func (s *subscription) endError() error {
	var by *closedFor
	if errors.As(context.Cause(s.ctx), &by) {
		return by.error
	}
	return contextError(s.opened)
}

// closedFor tells close, and an error that is final, from the end of the user's
// context, whose cause may be any error.
type closedFor struct{ error }

// close ends the subscription, for the given reason unless it has ended
// already, and waits until nothing is left of it.
func (s *subscription) close(reason error) {
	s.cancel(&closedFor{reason})
	<-s.finished
}

// finish runs once, when s.ctx has ended.
func (s *subscription) finish() {
	s.nextMu.Lock() // next returns, because s.ctx has ended
	defer s.nextMu.Unlock()
	if s.list != nil {
		s.list.stop()
		s.list = nil
	}
	if s.again != nil {
		s.again.stop()
		s.again = nil
	}
	if s.replay != nil {
		s.replay.Close()
		s.replay = nil
	}
	if s.err == nil {
		s.err = s.endError()
	}
	s.ready, s.view, s.mend, s.touched, s.doubt = nil, nil, nil, nil, nil
	s.h.mu.Lock()
	s.queue, s.dirty = queue{}, nil
	s.h.mu.Unlock()
	s.h.detach(s)
	if s.remove != nil {
		s.remove()
	}
	close(s.finished)
}

func (s *subscription) health() Health { return s.h.upstream().Health() }
