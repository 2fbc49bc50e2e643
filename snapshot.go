package kv

import (
	"context"
	"errors"
	"iter"

	"github.com/polykv/kv/backend"
)

// snapshotList is the listing behind a watch FromSnapshot. It is pulled by
// next, so that a reader that does not come costs one page, and can be taken
// up again after an error.
type snapshotList struct {
	keysOnly bool
	after    string // the last key that was delivered
	at       Revision
	pull     func() (backend.Entry, error, bool)
	end      func()
	cancel   context.CancelFunc
}

func (l *snapshotList) stop() {
	if l.pull != nil {
		l.cancel()
		l.end()
		l.pull = nil
	}
}

// fromList returns the next Existing or, at the end of the list, Synced.
func (s *subscription) fromList(ctx context.Context) (backend.Event, bool, error) {
	l := s.list
	if l.pull == nil {
		var lctx context.Context
		lctx, l.cancel = context.WithCancel(s.ctx)
		o := backend.ListOptions{KeysOnly: l.keysOnly, After: l.after}
		if l.after == "" {
			o.At = &l.at
		} else {
			l.at = 0 // what was listed before is of an older state
		}
		l.pull, l.end = iter.Pull2(s.c.scan(lctx, s.key, o))
	}
	stop := context.AfterFunc(ctx, l.cancel)
	e, err, more := l.pull()
	if !stop() && err == nil {
		// The call's context ended beside it, and took the list along.
		defer l.stop()
	}
	switch {
	case !more:
		l.stop()
		s.list = nil
		return s.listed(l), true, nil
	case err != nil:
		l.stop()
		return backend.Event{}, false, err
	}
	l.after = e.Key
	s.view.set(e.Key, version{e.Revision, e.Created})
	return backend.Event{Kind: Existing, Entry: e}, true, nil
}

// listed turns from the snapshot to the changes.
func (s *subscription) listed(l *snapshotList) backend.Event {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	synced := backend.Event{Kind: Synced}
	if s.h.lossless {
		// Where the list is one state, the stream goes on from there.
		s.from = max(s.from, l.at)
		s.settleLater()
		synced.Revision = s.from
		if s.position.Revision >= s.from {
			synced.Token = s.position.Token
		} // else what was written during the snapshot would come again
	} else {
		s.collectLater()
	}
	return synced
}

// scan lists what a hub covers, the single key of WatchKey too.
func (c *core) scan(ctx context.Context, key hubKey, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	if !key.key {
		return c.b.List(ctx, key.name, o)
	}
	return func(yield func(backend.Entry, error) bool) {
		if o.After != "" {
			return
		}
		e, err := c.b.Get(ctx, key.name, backend.GetOptions{})
		if !errors.Is(err, ErrNotFound) {
			yield(e, err)
		}
	}
}

// view is what the reader of a subscription knows of the keys, while the
// hub's events still overlap with what it got elsewhere.
type view struct {
	all bool // it knows all keys: one that is not in m is absent
	m   map[string]version
	// gone has the last revision that was told of keys that are absent for
	// the reader, but may be there still in what the hub, which is behind, has
	// to hand on: what it tells up to there is old.
	gone map[string]Revision
}

func newView(all bool) *view { return &view{all: all, m: map[string]version{}} }

// set notes what the reader was told; a zero version is an absent key.
func (v *view) set(key string, is version) {
	if v.all && is.rev == 0 {
		delete(v.m, key)
		return
	}
	v.m[key] = is
}

// leave notes that the reader was told that key is absent, after rev.
func (v *view) leave(key string, rev Revision) {
	if rev == 0 || rev == notCurrent {
		return // the reader knows no more than the hub has handed on
	}
	if v.gone == nil {
		v.gone = map[string]Revision{}
	}
	v.gone[key] = max(v.gone[key], rev)
}

// accept reports whether ev, in a Lossless store's order, is new to the
// reader, and notes it.
func (v *view) accept(ev backend.Event) bool {
	if ev.Revision != 0 && ev.Revision <= v.gone[ev.Entry.Key] {
		return false
	}
	is, known := v.m[ev.Entry.Key]
	if !known && !v.all {
		return true
	}
	switch ev.Kind {
	case Deleted:
		if is.rev == 0 || ev.Revision != 0 && ev.Revision <= is.rev {
			return false
		}
		if v.all {
			delete(v.m, ev.Entry.Key)
		} else {
			v.m[ev.Entry.Key] = version{}
		}
	case Created, Updated:
		if ev.Revision <= is.rev {
			return false
		}
		if is.rev == 0 && ev.Kind == Updated {
			// The key was there, and had gone when the reader was told that
			// it is absent: its delete is still to come, and is dropped too.
			return false
		}
		v.m[ev.Entry.Key] = version{ev.Revision, ev.Entry.Created}
		delete(v.gone, ev.Entry.Key)
	}
	return true
}

// filter decides on an event from the queue: deliver, drop, or hold back.
func (s *subscription) filter(q queued) (backend.Event, bool, error) {
	if q.mark != 0 {
		s.h.mu.Lock()
		defer s.h.mu.Unlock()
		switch {
		case q.mark == s.collect:
			s.collect, s.queue.keepVoid = 0, false
			s.come(q.mark)
			s.reconcile()
		case s.touched != nil:
			// A Sync's, and the reader was not told yet what came before it.
			s.held = append(s.held, q)
		default:
			s.come(q.mark)
			if q.mark == s.settleAt {
				s.settle()
			}
		}
		return backend.Event{}, false, nil
	}
	ev := q.Event
	switch {
	case q.void && s.touched == nil:
		return ev, false, nil
	case ev.Kind == Progress || s.view == nil && s.touched == nil:
		return ev, true, nil
	case s.touched != nil:
		// Markers of a resync mean nothing here: all differences are worked
		// out at the mark.
		if ev.Entry.Key != "" {
			s.touched.set(ev)
		}
		return ev, false, nil
	case ev.Entry.Key == "":
		return ev, true, nil
	}
	return ev, s.view.accept(ev), nil
}

// appendDifference appends the events that take a reader who knows a key in
// version is to the state after ev.
func appendDifference(out []backend.Event, ev backend.Event, is version) []backend.Event {
	ev.Prev = nil
	switch {
	case ev.Kind == Deleted:
		if is.rev == 0 {
			return out
		}
		return append(out, ev)
	case is.rev == 0:
		ev.Kind = Created
	case is.rev == ev.Revision:
		return out
	case is.created != 0 && ev.Entry.Created != 0 && is.created != ev.Entry.Created:
		gone := backend.Event{Kind: Deleted, Entry: backend.Entry{Key: ev.Entry.Key}}
		ev.Kind = Created
		return append(out, gone, ev)
	default:
		ev.Kind = Updated
	}
	return append(out, ev)
}

// settleLater asks for the mark behind which the stream has nothing more of
// what was listed, or read to mend, up to now. h.mu is held.
func (s *subscription) settleLater() {
	s.settleAt, _ = s.newMark()
	s.taken[s.settleAt] = true
	s.h.sync(mark{s, s.settleAt})
}

// settle gives the view up at that mark: from here on the reader knows what the
// stream tells, and so what the hub's table tells, which is made of the first
// such view. h.mu is held.
func (s *subscription) settle() {
	switch {
	case s.view == nil || s.gap || s.mend != nil:
		return // there will be another mark
	case s.lagging, s.from > s.h.whole:
		// What was dropped is not in the view; or a replay has told more than
		// the hub has handed on, and the mark was kept for its end.
		s.settleLater()
		return
	}
	if s.view.all && s.h.table == nil {
		s.h.table = s.view.m
		for q := range s.queue.all {
			s.h.record(q.Event)
		}
	}
	s.view, s.base, s.settled = nil, nil, true
}
