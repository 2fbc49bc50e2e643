package kv

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/polykv/kv/backend"
)

// dirtyKey is what a lagging reader knows of a key that has changed since.
type dirtyKey struct {
	existed bool
	rev     Revision // the revision that it knows; notCurrent: not known, but another than the present one
	created Revision // the incarnation that it knows; 0: not known
	there   bool     // what the hub has handed on last: the key is there
}

// told is the last revision that a replay told of the key, if one did.
func (d dirtyKey) told() Revision {
	if d.rev == notCurrent {
		return 0
	}
	return d.rev
}

// notCurrent is the incarnation of a key that is known to have gone.
const notCurrent = ^Revision(0)

// overflow runs when the queue is over its bound. h.mu is held.
//
// A store that may merge events has them merged: the queue is then bounded by
// the data itself, and by what startOver does. On a Lossless store the newer
// half goes, and the store's history is the buffer: replay continues from the
// last event that was kept. For a watch FromSnapshot the names of what changed
// are kept, in case the history does not reach back when the reader comes.
func (s *subscription) overflow() {
	if !s.h.lossless {
		s.queue.startMerging()
		if s.queue.voidBytes > s.c.watchBuffer {
			s.startOver()
		}
		return
	}
	dropped := s.queue.truncate()
	s.resumeAt = s.queue.last().Token
	if s.resumeAt == "" && !s.snapshot {
		s.ended = ErrHistoryLost
		return
	}
	s.lagging = true
	if s.snapshot {
		s.dirty = dirtyKeys{}
	}
	// Behind the place from which the reader lists again, nothing needs to be
	// remembered of what it knew.
	gap := s.gap && !slices.ContainsFunc(dropped, func(q queued) bool { return q.relist })
	for _, q := range dropped {
		if q.mark != 0 {
			s.held = append(s.held, q)
		}
		if gap = gap || q.relist; !gap {
			s.note(q)
		}
	}
}

// keepUp ends lagging: from here on the hub queues again. h.mu is held.
func (s *subscription) keepUp() {
	s.lagging, s.dirty = false, nil
	for _, q := range s.held {
		s.queue.push(q)
	}
	s.held = nil
}

// note remembers what the reader knew of a key whose event it does not get
// from the queue. h.mu is held.
func (s *subscription) note(q queued) {
	key := q.Entry.Key
	if s.dirty == nil || key == "" {
		return
	}
	d := s.dirty.note(q.Event)
	if !d.there && !d.existed && s.settled {
		// It came and went, and a reader who knows what the stream has told
		// knows nothing of it. One that lists, or mends, may have read it.
		delete(s.dirty, key)
		return
	}
	if !s.settled && !s.gap && len(s.dirty)*eventBytes > s.c.watchBuffer {
		s.widen()
	}
}

// noteTold remembers that the reader was told ev by a replay. h.mu is held.
func (s *subscription) noteTold(ev backend.Event) {
	if s.dirty == nil || s.view != nil && s.view.all {
		return // the view has it
	}
	d, known := s.dirty[ev.Entry.Key]
	d.existed, d.rev, d.created = ev.Kind != Deleted, ev.Revision, ev.Entry.Created
	passed := s.h.placed && !s.h.mended && ev.Revision < s.h.last // the hub has handed ev on
	if !known {
		// Where the hub was before, the key has gone since.
		d.there = d.existed && !passed
	}
	if !d.existed && !d.there && passed && !s.gap { // a base may have it
		delete(s.dirty, ev.Entry.Key)
		return
	}
	s.dirty[ev.Entry.Key] = d
}

// widen gives up the names of what changed, because they are too many: the
// reader compares all that it knows, should it have to. h.mu is held.
func (s *subscription) widen() {
	s.gap = true
	if s.base = maps.Clone(s.h.table); s.base == nil {
		s.base = map[string]version{} // its view has all, then
	}
	s.dirty.undo(s.base)
	s.dirty = dirtyKeys{}
}

// dirtyKeys are those that a lagging reader does not know as they are.
type dirtyKeys map[string]dirtyKey

// note adds what was known before ev, unless the key is there already.
func (dirty dirtyKeys) note(ev backend.Event) dirtyKey {
	d, known := dirty[ev.Entry.Key]
	if !known {
		d.existed, d.rev = ev.Kind != Created, notCurrent
		switch ev.Kind {
		case Updated:
			d.created = ev.Entry.Created
		case Deleted:
			d.created = notCurrent
		}
	}
	d.there = ev.Kind != Deleted
	dirty[ev.Entry.Key] = d
	return d
}

// undo makes of what is known of all keys what the reader knows of them.
func (dirty dirtyKeys) undo(known map[string]version) {
	for key, d := range dirty {
		delete(known, key)
		if d.existed {
			known[key] = version{d.rev, d.created}
		}
	}
}

// startReplay opens an upstream from the resume point.
func (s *subscription) startReplay(ctx context.Context) error {
	if s.resumeAt == "" {
		return s.lost()
	}
	rctx, cancel := context.WithCancel(s.ctx)
	stop := context.AfterFunc(ctx, cancel)
	o := backend.WatchOptions{Key: s.key.key, Prev: s.key.prev, Resume: s.resumeAt}
	w, err := s.c.b.Watch(rctx, s.key.name, o)
	if !stop() && err == nil {
		w.Close()
		err = contextError(ctx)
	}
	if err == nil {
		if err = w.Sync(ctx); err != nil {
			w.Close()
		}
	}
	switch {
	case err == nil:
		s.replay = &replaying{w, cancel}
		return nil
	case errors.Is(err, ErrHistoryLost) && s.snapshot:
		cancel()
		return s.lost()
	}
	cancel()
	return err
}

// replaying is a watch that owns its context.
type replaying struct {
	backend.Watch
	cancel context.CancelFunc
}

func (r *replaying) Close() error {
	defer r.cancel()
	return r.Watch.Close()
}

// fromReplay returns the next event of the replay, and goes back to the hub
// when that is no further.
func (s *subscription) fromReplay(ctx context.Context) (backend.Event, bool, error) {
	if s.unasked {
		err := s.replay.Sync(ctx)
		if err != nil && !errors.Is(err, ErrHistoryLost) { // which Next tells
			return backend.Event{}, false, err
		}
		s.unasked = false
	}
	ev, err := s.replay.Next(ctx)
	if err != nil {
		if errors.Is(err, ErrHistoryLost) {
			s.endReplay()
			return ev, false, nil // startReplay finds the same, and mends
		}
		return ev, false, err
	}
	s.h.mu.Lock()
	if ev.Token != "" {
		s.resumeAt = ev.Token
	}
	stale := s.stale(ev) || s.view != nil && ev.Entry.Key != "" && !s.view.accept(ev)
	if ev.Kind == Deleted && !stale && s.view != nil {
		s.view.leave(ev.Entry.Key, ev.Revision)
	}
	if ev.Entry.Key != "" && !stale {
		s.noteTold(ev)
	}
	// Only Progress says that a revision is complete: the events of one
	// transaction share theirs.
	caught := ev.Kind == Progress && s.h.placed && !s.h.mended && s.h.last <= ev.Revision
	if caught {
		// The replay has told what the hub may have missed, too.
		ahead := s.dirty
		s.keepUp()
		if ev.Revision > s.h.last {
			s.ahead = ahead
		}
		s.from, s.gap, s.base = ev.Revision, false, nil
		if s.view != nil {
			s.view.gone = nil // from says it for all keys
		}
		// If the end of a repair was among what was dropped, it is here.
		s.ready = append(s.ready, backend.Event{Kind: Synced, Entry: backend.Entry{Revision: ev.Revision}, Token: ev.Token})
	}
	s.h.mu.Unlock()
	if caught {
		s.endReplay()
	}
	if ev.Kind == Progress {
		s.unasked = !caught // the hub went on meanwhile
		return ev, caught && s.progress, nil
	}
	return ev, !stale, nil
}

func (s *subscription) endReplay() {
	s.replay.Close()
	s.replay, s.unasked = nil, false
}

// lost is what becomes of a subscription whose history is gone: a snapshot
// watch mends itself.
func (s *subscription) lost() error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	switch {
	case s.dirty == nil:
		return ErrHistoryLost
	case s.h.repairing:
		return nil // step waits for the end of that, and comes back
	}
	if s.gap {
		// More changed than the hub has seen.
		dirty := s.dirty
		s.keepUp()
		s.relist(dirty)
		return nil
	}
	m := &mending{dirty: s.dirty}
	for key := range s.dirty {
		m.keys = append(m.keys, key)
	}
	slices.Sort(m.keys)
	// From here on the hub queues again: what changes now is either in what
	// mending reads, or an event that it does not cover.
	s.keepUp()
	s.mend = m
	if s.view == nil {
		s.view, s.settled = newView(false), false
	}
	s.ready = append(s.ready, backend.Event{Kind: Resynced})
	return nil
}

// mending reads the keys that changed while history was lost.
type mending struct {
	keys  []string // those that are still to read
	dirty dirtyKeys
}

// mendPage is how many keys one request reads.
const mendPage = 64

// mendSome works out the differences of one page of keys.
func (s *subscription) mendSome(ctx context.Context) error {
	m := s.mend
	page := m.keys[:min(mendPage, len(m.keys))]
	if len(page) > 0 {
		es, err := s.getMany(ctx, page)
		if err != nil {
			return err
		}
		for i, e := range es {
			d := m.dirty[page[i]]
			var is version
			if d.existed {
				is = version{d.rev, d.created}
			}
			// What an earlier mending told, or the snapshot, is newer than
			// the event that was dropped first.
			if told, known := s.view.m[page[i]]; known || s.view.all {
				is = told
			}
			ev := backend.Event{Kind: Updated, Entry: e}
			if e.Revision == 0 {
				ev = backend.Event{Kind: Deleted, Entry: backend.Entry{Key: page[i]}}
			}
			s.ready = appendDifference(s.ready, ev, is)
			s.view.set(page[i], version{e.Revision, e.Created})
			if e.Revision == 0 {
				// Also a delete that a replay told, ahead of the hub.
				s.view.leave(page[i], max(is.rev, d.told()))
			}
		}
		m.keys = m.keys[len(page):]
	}
	if len(m.keys) == 0 {
		s.ready = append(s.ready, backend.Event{Kind: Synced})
		s.mend = nil
		s.h.mu.Lock()
		s.settleLater()
		s.h.mu.Unlock()
	}
	return nil
}

// getMany reads keys for a call of next.
func (s *subscription) getMany(ctx context.Context, keys []string) ([]backend.Entry, error) {
	ctx, cancel := s.either(ctx)
	defer cancel()
	return s.c.b.GetMany(ctx, keys, backend.GetOptions{})
}
