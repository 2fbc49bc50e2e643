package embedded

import (
	"context"
	"strconv"

	"github.com/polykv/kv/backend"
)

// nextExisting delivers the snapshot, and Synced at its end.
func (w *Watcher) nextExisting(ctx context.Context) (backend.Event, bool, error) {
	if len(w.existing) == 0 {
		page, err := w.s.Page(ctx, w.lastKey)
		if err != nil {
			if ctx.Err() != nil && w.ctx.Err() == nil {
				return backend.Event{}, false, err // of this call only
			}
			return backend.Event{}, false, w.end(err)
		}
		if len(page) == 0 {
			w.listing, w.existing = false, nil
			w.finish()
			return w.mark(backend.Synced, w.s.From), true, nil
		}
		w.existing = page
	}
	e := w.existing[0]
	w.existing[0] = backend.Entry{}
	w.existing = w.existing[1:]
	w.lastKey = e.Key
	if e.Revision > w.s.From {
		if w.listed == nil {
			w.listed = map[string]backend.Revision{}
		}
		w.listed[e.Key] = e.Revision
	}
	return backend.Event{Kind: backend.Existing, Entry: e}, true, nil
}

// finish tells the source that the snapshot is no longer read.
func (w *Watcher) finish() {
	if w.s.Done != nil {
		w.s.Done()
	}
}

// mark is an event without a key.
func (w *Watcher) mark(k backend.Kind, rev backend.Revision) backend.Event {
	return backend.Event{
		Kind:  k,
		Entry: backend.Entry{Revision: rev},
		Token: w.position(rev, "").Token(),
	}
}

func (w *Watcher) position(rev backend.Revision, extra string) backend.Position {
	return backend.Position{Store: w.s.Store, Epoch: w.s.Epoch, Scope: w.scope, Revision: rev, Extra: extra}
}

// take moves what comes next from the ring to the queue. It reports whether
// the ring has lost it, and otherwise, if there is nothing to deliver and a
// Progress is due, up to which revision.
func (w *Watcher) take() (behind, due bool, pos backend.Revision) {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.pos < f.floor {
		return true, false, 0
	}
	bytes := 0
	for _, c := range f.ring[f.after(w.pos):] {
		w.enqueue(c)
		w.pos = c.Revision
		if len(w.queue) > 0 {
			if bytes += c.Size(); bytes > chunkBytes || len(w.queue) >= chunkChanges {
				return false, false, 0
			}
		}
	}
	w.pos = f.last
	if len(w.queue) == 0 && w.sync {
		w.sync = false
		return false, true, w.pos
	}
	return false, false, 0
}

// takeFromLog does the same from the durable history, without the lock.
func (w *Watcher) takeFromLog(ctx context.Context) error {
	w.feed.mu.Lock()
	pos := w.pos
	w.feed.mu.Unlock()
	if w.s.Log == nil {
		return w.end(lost(pos))
	}
	commits, err := w.s.Log(ctx, pos)
	if err != nil {
		if ctx.Err() != nil && w.ctx.Err() == nil {
			return err
		}
		return w.end(err)
	}
	for _, c := range commits {
		w.enqueue(c)
		pos = c.Revision
	}
	w.feed.mu.Lock()
	w.pos = max(w.pos, pos)
	w.feed.mu.Unlock()
	return nil
}

// enqueue queues the changes of c that this watch covers.
func (w *Watcher) enqueue(c *Commit) {
	first := len(w.queue)
	for i := range c.Changes {
		key := c.Changes[i].Key
		if c.Revision == w.skip.rev && i < w.skip.index || !w.coversKey(key) || c.Revision <= w.listed[key] {
			continue
		}
		w.queue = append(w.queue, pending{&c.Changes[i], w.position(c.Revision, strconv.Itoa(i+1))})
	}
	if n := len(w.queue); n > first { // after the last one nothing is left to skip
		w.queue[n-1].token.Extra = ""
	}
}

func (w *Watcher) pop() backend.Event {
	p := w.queue[w.head]
	w.queue[w.head] = pending{}
	if w.head++; w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
	}
	ev := backend.Event{Kind: p.change.Kind, Entry: p.change.Entry(p.change.Key), Token: p.token.Token()}
	if ev.Kind == backend.Deleted {
		ev.Entry = backend.Entry{Key: p.change.Key, Revision: p.change.Revision}
	}
	ev.Value = clone(ev.Value)
	if w.s.Prev && p.change.Prev.Revision != 0 && !p.change.PrevLost {
		prev := p.change.Prev.Entry(p.change.Key)
		prev.Value = clone(prev.Value)
		ev.Prev = &prev
	}
	return ev
}
