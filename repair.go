package kv

import (
	"context"
	"errors"
	"maps"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// positioned reports whether h.last means something yet.
func (h *hub) positioned() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.placed
}

// repair replaces an upstream whose history is lost. Watches FromSnapshot get
// the differences between what they know, the table, and what is there; the
// others end with ErrHistoryLost. It returns lost if nobody is left, and why the
// store cannot be watched any more if it cannot.
func (h *hub) repair(lost error) error {
	h.mu.Lock()
	old, table := h.up, h.table
	snapshots := 0
	for sub := range h.subs {
		switch {
		case sub.snapshot:
			snapshots++
			if sub.from > h.last && sub.ahead != nil {
				sub.settled = false // it knows more than the table
			}
			if sub.apart = !sub.settled; sub.apart {
				sub.setApart(table)
			}
			sub.from, sub.ahead = 0, nil // revisions may start lower in a restored store
		case sub.ended == nil:
			sub.ended = ErrHistoryLost
			sub.wake()
		}
	}
	h.last, h.whole, h.placed, h.floor = 0, 0, false, 0
	// What was asked of the old upstream is asked of the new one.
	h.waiting = append(h.asked, h.waiting...)
	h.asked, h.syncing, h.mended, h.repairing = nil, true, true, true
	h.mu.Unlock()
	if snapshots == 0 {
		return lost
	}
	old.Close()
	h.c.log.Warn("kv: history lost, watch lists again", "store", h.c.name, "prefix", h.key.name)
	if table != nil {
		h.tell(backend.Event{Kind: Resynced})
	}
	var b backoff.Backoff
	for {
		err := h.reopen()
		if err == nil {
			break
		}
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrHistoryLost) || !b.Wait(h.ctx) {
			h.c.log.Error("kv: watch cannot be repaired", "store", h.c.name, "prefix", h.key.name, "error", err)
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if table != nil {
		h.handOn(backend.Event{Kind: Synced})
	}
	// Those that are still between their snapshot and the stream know more,
	// or less, than the table.
	for sub := range h.subs {
		if sub.apart && !sub.lagging {
			sub.push(queued{relist: true})
			for _, q := range sub.held {
				sub.queue.push(q)
			}
			sub.held = nil
		}
		sub.apart = false
	}
	h.syncing, h.repairing = false, false
	for sub := range h.subs {
		sub.wake()
	}
	h.sync(mark{}) // of nobody: its answer ends mended
	return nil
}

// setApart has a subscription that knows something else than the table list
// again. What its queue holds is of no use to it any more, and revisions do not
// tell that: the next may be lower. h.mu is held.
func (s *subscription) setApart(table map[string]version) {
	if !s.gap {
		s.gap = true
		if s.base = maps.Clone(table); s.base != nil && s.from > s.h.last {
			s.ahead.undo(s.base)
		}
	}
	// The base is what the reader knows who has read what precedes the gap.
	unread, before := dirtyKeys{}, true
	for q := range s.queue.all {
		switch {
		case q.mark != 0 && s.taken[q.mark]:
			s.held = append(s.held, q)
		case q.mark != 0:
			s.come(q.mark)
		case q.relist:
			before = false
		case before && q.Entry.Key != "":
			unread.note(q.Event)
		}
	}
	if s.queue.len() > 0 {
		s.resumeAt = "" // which is behind the queue
	}
	s.queue = queue{}
	if s.base != nil {
		unread.undo(s.base)
		for key := range unread {
			delete(s.dirty, key)
		}
	}
}

// reopen establishes a new upstream and hands on the differences. It may be
// called again after an error: the table knows how far it came.
func (h *hub) reopen() error {
	up, err := h.c.b.Watch(h.ctx, h.key.name, backend.WatchOptions{Key: h.key.key, Prev: h.key.prev})
	if err != nil {
		return err
	}
	h.mu.Lock()
	repaired := h.table != nil
	h.mu.Unlock()
	if repaired {
		if err := h.differences(h.ctx); err != nil {
			up.Close()
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up = up
	return nil
}

// tell hands on an event of repair's own.
func (h *hub) tell(ev backend.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handOn(ev)
}

func (h *hub) differences(ctx context.Context) error {
	there := map[string]struct{}{}
	var at Revision
	for e, err := range h.c.scan(ctx, h.key, backend.ListOptions{At: &at}) {
		if err != nil {
			return err
		}
		there[e.Key] = struct{}{}
		h.mu.Lock()
		is := h.table[e.Key]
		h.mu.Unlock()
		for _, ev := range appendDifference(nil, backend.Event{Kind: Updated, Entry: e}, is) {
			h.tell(ev)
		}
	}
	h.mu.Lock()
	var gone []string
	for key := range h.table {
		if _, ok := there[key]; !ok {
			gone = append(gone, key)
		}
	}
	h.mu.Unlock()
	for _, key := range gone {
		h.tell(backend.Event{Kind: Deleted, Entry: backend.Entry{Key: key}})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.floor = at
	return nil
}
