package kv

import (
	"context"
	"iter"

	"github.com/polykv/kv/backend"
)

// relisting compares what a reader knows with what is there, key by key. It
// serves a watch FromSnapshot that met a loss of history before the hub had a
// table of what its readers know, and one whose queue was given up.
type relisting struct {
	before map[string]version // what the reader knew, less what was met
	after  string
	at     Revision
	pull   func() (backend.Entry, error, bool)
	end    func()
	cancel context.CancelFunc
}

func (r *relisting) stop() {
	if r.pull != nil {
		r.cancel()
		r.end()
		r.pull = nil
	}
}

// relist begins. What the reader knows is in its view or, if that does not know
// all keys, in what the hub's readers knew, with the keys that the reader did
// not hear of any more (dirty) and those that it was told of since. h.mu is
// held.
func (s *subscription) relist(dirty dirtyKeys) {
	if s.view == nil {
		s.view = newView(false)
	}
	before := s.view.m
	if !s.view.all {
		before = s.base
		dirty.undo(before)
		for key, is := range s.view.m {
			before[key] = is
			if is.rev == 0 {
				delete(before, key)
			}
		}
	}
	s.again = &relisting{before: before}
	// While the repair is under way, what comes between this list and the new
	// upstream is still to be missed: list once more then.
	gone := s.view.gone
	s.view, s.base, s.gap = newView(true), nil, s.apart
	s.view.gone = gone
	s.ready = append(s.ready, backend.Event{Kind: Resynced})
}

// passOver drops what is to be told behind the place of a list that is about to
// begin, and takes the hub's events from here on: all of it the list will show.
// Told after a list that is of no one moment, it would bring back what is gone,
// and of what was dropped from the queue nothing is known. h.mu is held.
func (s *subscription) passOver() {
	kept := queue{keepVoid: s.queue.keepVoid}
	for q := range s.queue.all {
		if q.Entry.Key == "" { // an answer to Sync
			kept.push(q)
		}
	}
	s.queue = kept
	s.keepUp()
}

// relistSome works out the differences of one key, and at the end the deletes.
func (s *subscription) relistSome(ctx context.Context) error {
	r := s.again
	if r.pull == nil {
		var lctx context.Context
		lctx, r.cancel = context.WithCancel(s.ctx)
		o := backend.ListOptions{After: r.after}
		if r.at = 0; r.after == "" {
			o.At = &r.at
		}
		r.pull, r.end = iter.Pull2(s.c.scan(lctx, s.key, o))
	}
	stop := context.AfterFunc(ctx, r.cancel)
	e, err, more := r.pull()
	if !stop() {
		defer r.stop()
	}
	switch {
	case err != nil:
		r.stop()
		return err
	case more:
		r.after = e.Key
		s.ready = appendDifference(s.ready, backend.Event{Kind: Updated, Entry: e}, r.before[e.Key])
		s.view.set(e.Key, version{e.Revision, e.Created})
		delete(r.before, e.Key)
		return nil
	}
	r.stop()
	for key, is := range r.before {
		s.view.leave(key, is.rev)
		s.ready = append(s.ready, backend.Event{Kind: Deleted, Entry: backend.Entry{Key: key}})
	}
	s.ready = append(s.ready, backend.Event{Kind: Synced})
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.h.lossless {
		s.from = max(s.from, r.at)
		s.settleLater()
	} else {
		s.collectLater()
	}
	s.again = nil
	return nil
}

// startOver gives up a queue that keeps more than it may of keys that came and
// went while the reader, who does not come, was listing: nobody knows which of
// them his list will show. He lists again when he comes; what happens until
// then needs no keeping. h.mu is held.
func (s *subscription) startOver() {
	for q := range s.queue.all {
		switch {
		case q.mark == 0:
		case s.taken[q.mark]:
			s.held = append(s.held, q)
		default:
			s.come(q.mark)
		}
	}
	s.queue, s.collect, s.over = queue{}, 0, true
}

// listAgain does what startOver has put off: from here on the hub queues again,
// and the list comes later. h.mu is held.
func (s *subscription) listAgain() {
	s.over, s.collect, s.touched, s.doubt = false, 0, nil, nil
	s.queue.keepVoid = true
	for _, q := range s.held {
		s.queue.push(q)
	}
	s.held = nil
	s.again = &relisting{before: s.view.m}
	s.view = newView(true)
	s.ready = append(s.ready, backend.Event{Kind: Resynced})
}
