package kv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// subscription is one watch's part in a hub. What next returns comes, in this
// order of preference, from
//
//   - ready: events that were worked out already,
//   - list: the entries of a snapshot, while that is under way,
//   - mend and again: what changed while history was lost,
//   - doubt: reads of what only the snapshot has shown,
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
	sure     Revision                 // keys that were made up to here and are there, the hub knew of at that mark; if not lossless
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
	doubt   *doubt      // what the hub may not know, before touched is given up
	replay  backend.Watch
	unasked bool // replay is still to be asked how far it is
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
	if err == nil {
		return s, nil
	}
	s.close(err)
	if !fresh && o.Resume == "" && errors.Is(err, ErrHistoryLost) {
		// What was lost came before this watch: it opens a stream of its own.
		return c.subscribe(ctx, opening, full, o)
	}
	return nil, err
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
	err := s.awaitStore(ctx, come)
	if err != nil {
		s.forget(id)
	}
	return err
}

// syncFor is how long a Sync without a deadline waits for a store that is away
// (R38).
const syncFor = 5 * time.Second

// awaitStore is await that gives a store up that is away, unless ctx says how
// long to wait. For a reader who takes its time it waits on.
func (s *subscription) awaitStore(ctx context.Context, come <-chan struct{}) error {
	if _, ok := ctx.Deadline(); ok {
		return s.await(ctx, come)
	}
	for wait := syncFor; ; {
		bounded, cancel := context.WithTimeout(ctx, wait)
		err := s.await(bounded, come)
		waited := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !waited {
			return err
		}
		wait = syncFor
		if since := s.health().DisconnectedSince; !since.IsZero() {
			if wait -= time.Since(since); wait <= 0 {
				return fmt.Errorf("%w: not reached for %v", ErrUnavailable, syncFor)
			}
		}
	}
}

// forget takes back a mark that nobody waits for any more: while the store is
// away, or the reader does not come, they would pile up.
func (s *subscription) forget(id uint64) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	delete(s.marks, id)
	delete(s.taken, id)
	s.queue.forget(id)
	s.held = slices.DeleteFunc(s.held, func(q queued) bool { return q.mark == id })
	s.h.waiting = slices.DeleteFunc(s.h.waiting, func(m mark) bool { return m == mark{s, id} })
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
			} else {
				s.sure = q.Revision
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
