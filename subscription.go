package kv

import (
	"context"
	"errors"
	"sync"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// subscription is one watch's part in a hub. What next returns comes, in this
// order of preference, from
//
//   - ready: events that were worked out already,
//   - list: the entries of a snapshot, while that is under way,
//   - mend and again: what changed while history was lost,
//   - the queue that the hub fills,
//   - replay: an upstream of its own, from where the queue overflowed or from
//     the user's resume token, until it has caught up with the hub.
type subscription struct {
	c        *core
	key      hubKey
	snapshot bool
	progress bool
	h        *hub

	opened   context.Context // the stream's, as the user gave it
	ctx      context.Context // ends with opened and with close
	cancel   context.CancelCauseFunc
	finished chan struct{} // everything behind the subscription is gone
	remove   func()        // takes the hook of Close back
	signal   chan struct{} // holds one token when there may be something new

	// Guarded by h.mu.
	queue    queue
	opening  uint64                   // discard what comes before this mark
	collect  uint64                   // a mark that next waits for
	marks    map[uint64]chan struct{} // closed when the mark has come
	taken    map[uint64]bool          // marks that come when next takes them
	held     []queued                 // such marks, while lagging
	marked   uint64                   // the last mark given out
	from     Revision                 // events up to here were delivered or are in the snapshot
	position backend.Event            // the Progress that ended opening
	lagging  bool                     // the hub does not queue: replay from resumeAt
	resumeAt Token
	dirty    dirtyKeys          // what changed while lagging; nil if nobody asks
	ahead    dirtyKeys          // what a replay has told that the hub has still to hand on
	settled  bool               // the reader knows just what the hub's table knows
	settleAt uint64             // the mark from which on it will
	gap      bool               // the hub missed events, and could not repair for this one: list again
	apart    bool               // that repair is under way
	base     map[string]version // what the hub's readers knew before the gap
	over     bool               // the queue was given up, and takes nothing: list again
	ended    error              // comes after what is queued

	// For next alone, and for finish.
	nextMu  sync.Mutex
	ready   []backend.Event
	list    *snapshotList
	mend    *mending
	view    *view
	again   *relisting
	touched *lastEvents // before the mark collect
	replay  backend.Watch
	backoff backoff.Backoff
	begun   bool  // the first Synced was delivered, or none is to come
	resync  bool  // Resynced was delivered, and its Synced is to come
	err     error // final
}

// subscribe opens a subscription. Its stream lives as long as ctx; opening
// bounds the call.
func (c *core) subscribe(ctx, opening context.Context, full string, o watchOptions) (*subscription, error) {
	s := &subscription{
		c:        c,
		key:      hubKey{name: full, key: o.Key, prev: o.Prev},
		snapshot: o.Snapshot,
		progress: o.progress,
		begun:    !o.Snapshot,
		opened:   ctx,
		finished: make(chan struct{}),
		signal:   make(chan struct{}, 1),
		marks:    map[uint64]chan struct{}{},
		taken:    map[uint64]bool{},
	}
	if o.Resume != "" && !c.b.Capabilities().Resumable {
		return nil, unsupportedResume
	}
	h, fresh, err := c.acquire(opening, s.key)
	if err != nil {
		return nil, err
	}
	s.h = h
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	h.attach(s)
	s.remove, err = (&Store{core: c}).OnClose(func() { s.close(ErrClosed) })
	context.AfterFunc(s.ctx, s.finish)
	if err == nil {
		err = s.begin(opening, fresh, o)
	}
	if err != nil {
		s.close(err)
		return nil, err
	}
	return s, nil
}

var unsupportedResume = backend.Because(errors.ErrUnsupported, errors.New("the store keeps no history to resume from"))

// begin brings the subscription to the point from which it delivers.
func (s *subscription) begin(ctx context.Context, fresh bool, o watchOptions) error {
	s.nextMu.Lock()
	defer s.nextMu.Unlock()
	switch {
	case o.Resume != "":
		s.h.mu.Lock()
		// What has come since attach is behind the token too: the replay tells it.
		s.queue, s.ended = queue{}, nil
		s.lagging, s.resumeAt = true, o.Resume
		s.h.mu.Unlock()
		if !s.h.positioned() {
			if _, err := s.barrier(ctx, false); err != nil {
				return err
			}
		}
		return s.startReplay(ctx)
	case o.Snapshot:
		if _, err := s.barrier(ctx, true); err != nil {
			return err
		}
		s.view = newView(true)
		s.list = &snapshotList{keysOnly: o.keysOnly}
		ev, ok, err := s.fromList(ctx)
		if err != nil {
			return err
		}
		if ok {
			s.ready = append(s.ready, ev)
		}
		return nil
	case !fresh:
		// The hub may have writes before it that were complete before this
		// watch was asked for.
		_, err := s.barrier(ctx, true)
		return err
	}
	return nil
}

// barrier waits until the hub has handed on the events of all writes that were
// complete when it was called, and lets discard say that they are not wanted.
func (s *subscription) barrier(ctx context.Context, discard bool) (backend.Event, error) {
	s.h.mu.Lock()
	id, come := s.newMark()
	if discard {
		s.opening = id
	}
	s.h.sync(mark{s, id})
	s.h.mu.Unlock()
	if err := s.await(ctx, come); err != nil {
		return backend.Event{}, err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.position, nil
}

// sync is Watch.Sync: its mark goes through the queue, and is taken from there
// by a reader who has come back from all that was before it.
func (s *subscription) sync(ctx context.Context) error {
	s.h.mu.Lock()
	id, come := s.newMark()
	s.taken[id] = true
	s.h.sync(mark{s, id})
	s.h.mu.Unlock()
	return s.await(ctx, come)
}

// come tells who waits for the mark. h.mu is held.
func (s *subscription) come(id uint64) {
	if come, ok := s.marks[id]; ok {
		close(come)
		delete(s.marks, id)
		delete(s.taken, id)
	}
}

// newMark returns a mark and the channel that closes when it comes. h.mu is
// held.
func (s *subscription) newMark() (uint64, chan struct{}) {
	s.marked++
	come := make(chan struct{})
	s.marks[s.marked] = come
	return s.marked, come
}

func (s *subscription) await(ctx context.Context, come <-chan struct{}) error {
	select {
	case <-come:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	case <-s.ctx.Done():
		return s.endError()
	case <-s.h.ctx.Done():
		if s.ctx.Err() != nil { // it took the hub along
			return s.endError()
		}
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		if s.h.err != nil {
			return s.h.err
		}
		return ErrClosed
	}
}

// push is the hub's. h.mu is held.
func (s *subscription) push(q queued) {
	if q.mark != 0 {
		if s.opening == q.mark {
			s.opening = 0
			// What came between attach and the request goes too.
			s.queue, s.lagging, s.dirty, s.ended = queue{}, false, nil, nil
			if s.h.lossless {
				s.from = q.Revision
			}
			s.queue.keepVoid = s.snapshot && !s.h.lossless // until what is listed has been compared
		}
		s.position = q.Event
		switch {
		case s.taken[q.mark] && (s.lagging || s.over):
			s.held = append(s.held, q)
		case s.taken[q.mark] || s.collect == q.mark && !s.over:
			s.queue.push(q)
			s.wake()
		default:
			s.come(q.mark)
		}
		return
	}
	switch {
	case s.opening != 0, s.ended != nil, s.over:
		return
	case s.stale(q.Event):
		return
	case s.lagging:
		if !s.gap {
			s.note(q)
		}
		return
	}
	s.ahead = nil // the hub has come to where the replay ended
	s.queue.push(q)
	if s.queue.bytes > s.c.watchBuffer {
		s.overflow()
	}
	s.wake()
}

// stale reports whether the reader has what ev tells. h.mu is held.
func (s *subscription) stale(ev backend.Event) bool {
	return ev.Entry.Key != "" && ev.Revision != 0 && ev.Revision <= s.from
}

func (s *subscription) wake() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

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
		case errors.Is(err, ErrUnavailable):
			// The stream survives what the hub's upstream survives.
			s.backoff.Wait(ctx)
		case err != nil:
			s.err = err
		case ok && s.tells(ev):
			s.backoff.Reset()
			return ev, nil
		}
	}
}

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

// endError is why s.ctx ended: what came first of close and the end of the
// context that the stream was opened with.
func (s *subscription) endError() error {
	var by *closedFor
	if errors.As(context.Cause(s.ctx), &by) {
		return by.error
	}
	return contextError(s.opened)
}

// closedFor tells close from the end of the user's context, whose cause may be
// any error.
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
	s.ready, s.view, s.mend, s.touched = nil, nil, nil, nil
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
