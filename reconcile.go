package kv

import (
	"context"

	"github.com/polykv/kv/backend"
)

// What a snapshot has shown and what a hub hands on beside it meet, on a store
// that is Lossless, by their revisions. Elsewhere there is no order to go by:
// a delete has no revision, and what came and went between two looks of the
// upstream is not told at all. So the last event of each key up to a mark, at
// which the hub is at least as new as the snapshot, is held against what the
// snapshot has shown; and what it has shown that the hub need not know is read
// again.

// collectLater has what the hub hands on from here to a mark held against what
// was listed. h.mu is held.
func (s *subscription) collectLater() {
	s.touched = &lastEvents{}
	s.collect, _ = s.newMark()
	s.h.sync(mark{s, s.collect})
}

// reconcile tells what leads from what the reader knows to what the hub has
// handed on before the mark. h.mu is held.
func (s *subscription) reconcile() {
	for _, key := range s.touched.order {
		ev := s.touched.m[key]
		s.ready = appendDifference(s.ready, ev, s.view.m[key])
		s.view.set(key, version{ev.Revision, ev.Entry.Created})
		if ev.Kind == Deleted {
			s.view.set(key, version{})
		}
	}
	switch {
	case s.doubt == nil:
		s.doubt = &doubt{keys: s.unheard()}
	default: // the second time
		for _, key := range s.doubt.gone {
			if _, ok := s.touched.m[key]; !ok {
				s.ready = append(s.ready, backend.Event{Kind: Deleted, Entry: backend.Entry{Key: key}})
			}
		}
		s.doubt = &doubt{}
	}
	s.touched = &lastEvents{}
	if !s.doubt.open() {
		s.agree()
	}
}

// agree goes over to what the hub hands on: it and the reader know the same.
// h.mu is held.
func (s *subscription) agree() {
	s.touched, s.view, s.doubt = nil, nil, nil
	for _, q := range s.held {
		s.queue.push(q)
	}
	s.held = nil
}

// unheard are the keys that the snapshot has shown and that the hub need not
// know: it was not there when the hub stood at sure, and no event has told of
// it since. If it has gone meanwhile, none will.
func (s *subscription) unheard() (keys []string) {
	for key, is := range s.view.m {
		if _, told := s.touched.m[key]; !told && (is.created == 0 || is.created > s.sure) {
			keys = append(keys, key)
		}
	}
	return keys
}

// doubt is about keys that the reader knows and the hub may not.
type doubt struct {
	keys []string // to be read
	gone []string // that are not what the reader knows any more
}

func (d *doubt) open() bool { return d != nil && len(d.keys) > 0 }

// clearUp reads a page of the keys in doubt. Those that are as the reader knows
// them the hub knows, too, or it would have told of them. Of the others it may
// have to tell still: so there is one more mark, and what has gone and is not
// told by then the reader is told there.
func (s *subscription) clearUp(ctx context.Context) error {
	d := s.doubt
	page := d.keys[:min(mendPage, len(d.keys))]
	entries, err := s.getMany(ctx, page)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if e.Revision == 0 || e.Created != s.view.m[page[i]].created {
			d.gone = append(d.gone, page[i])
		}
	}
	if d.keys = d.keys[len(page):]; len(d.keys) > 0 {
		return nil
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if len(d.gone) == 0 {
		s.agree()
	} else {
		s.collectLater()
	}
	return nil
}

// lastEvents is the last event of each key, in the order of the first.
type lastEvents struct {
	order []string
	m     map[string]backend.Event
}

func (l *lastEvents) set(ev backend.Event) {
	if l.m == nil {
		l.m = map[string]backend.Event{}
	}
	if _, ok := l.m[ev.Entry.Key]; !ok {
		l.order = append(l.order, ev.Entry.Key)
	}
	l.m[ev.Entry.Key] = ev
}
