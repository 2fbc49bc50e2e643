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

// relist begins. The view of such a watch knows all keys, because it was not
// settled yet.
func (s *subscription) relist() {
	known := s.view
	if known == nil {
		known = newView(true)
	}
	s.again = &relisting{before: known.m}
	s.view = newView(true)
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
	s.h.mu.Unlock()
	s.again = nil
	return nil
}
