package kv

import (
	"context"
	"iter"

	"github.com/polykv/kv/backend"
)

// relisting compares what a reader knows with what is there, key by key. It
// serves a watch FromSnapshot that met a loss of history before the hub had a
// table of what its readers know.
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
func (s *subscription) relist(dirty map[string]dirtyKey) {
	before := s.view.m
	if !s.view.all {
		before = s.base
		for key, d := range dirty {
			delete(before, key)
			if d.existed {
				before[key] = version{notCurrent, d.created}
			}
		}
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
	s.view, s.base, s.gap = newView(true), nil, s.apart
	s.ready = append(s.ready, backend.Event{Kind: Resynced})
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
	for key := range r.before {
		s.ready = append(s.ready, backend.Event{Kind: Deleted, Entry: backend.Entry{Key: key}})
	}
	s.ready = append(s.ready, backend.Event{Kind: Synced})
	s.h.mu.Lock()
	s.from = max(s.from, r.at)
	s.settleLater()
	s.h.mu.Unlock()
	s.again = nil
	return nil
}
