package rediskv

import (
	"context"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
)

// snapshot delivers what was there at one place of the log, R, page by page, while others write. The pages are read at
// different moments, so an entry is delivered as it is listed only if it has not changed since R. Of the others the log
// has the first change after R, and that has what was there before.
type snapshot struct {
	w      *watch
	at     id // R
	from   cursor
	listed bool
	end    id      // of the log when everything was listed
	fences []fence // in order of their keys
	strays map[string]struct{}
	seen   map[string]struct{} // keys whose first change after R was met
	read   id                  // how far the log was read for them
}

// fence says when a stretch of keys was listed.
type fence struct {
	upto string // the last key of the stretch
	log  id     // the end of the log when its values were read
}

func newSnapshot(w *watch, at id) *snapshot {
	return &snapshot{w: w, at: at, from: newCursor(w.prefix, ""), strays: map[string]struct{}{}, seen: map[string]struct{}{}, read: at}
}

// fill queues the next part of the snapshot.
func (p *snapshot) fill(ctx context.Context) error {
	switch {
	case !p.listed:
		return p.list(ctx)
	case p.end.after(p.read):
		return p.repair(ctx)
	}
	w := p.w
	w.queue = append(w.queue, w.marker(backend.Synced, p.at))
	w.snapshot = nil
	return nil
}

// list queues one page of what has not changed since R.
func (p *snapshot) list(ctx context.Context) error {
	w := p.w
	var found []string
	var err error
	if w.o.Key {
		found = []string{w.prefix}
	} else if found, err = w.s.index(ctx, p.from, readBatch); err != nil {
		return err
	}
	pg, err := w.s.page(ctx, found, false)
	if err != nil {
		return err
	}
	if pg.epoch != w.epoch {
		return backend.ErrHistoryLost
	}
	if len(found) == 0 {
		p.finish(pg.log)
		return nil
	}
	found = found[:len(pg.pairs)]
	var strays []string
	var queue []backend.Event
	for i, pr := range pg.pairs {
		e, ok, err := pr.entry(found[i])
		switch {
		case err != nil:
			return err
		case !ok:
			strays = append(strays, found[i])
		case e.Revision != 0 && e.Revision <= backend.Revision(p.at.rev):
			queue = append(queue, backend.Event{Kind: backend.Existing, Entry: e})
		}
	}
	if len(strays) > 0 {
		// They become changes after R.
		if _, _, err := w.s.settle(ctx, strays, false); err != nil {
			return err
		}
		for _, key := range strays {
			p.strays[key] = struct{}{}
		}
	}
	w.queue = append(w.queue, queue...)
	last := found[len(found)-1]
	if n := len(p.fences); n > 0 && p.fences[n-1].log == pg.log {
		p.fences[n-1].upto = last
	} else {
		p.fences = append(p.fences, fence{last, pg.log})
	}
	if w.o.Key {
		end := pg.log
		if len(strays) > 0 {
			if pg, err = w.s.page(ctx, nil, true); err != nil {
				return err
			}
			end = pg.log
		}
		p.finish(end)
	}
	p.from = p.from.after(last)
	return nil
}

func (p *snapshot) finish(end id) {
	p.listed, p.end = true, end
}

// delivered reports whether key, which was there at R and was first changed at first, was listed before.
func (p *snapshot) delivered(key string, first id) bool {
	if _, stray := p.strays[key]; stray {
		return false
	}
	i, _ := slices.BinarySearchFunc(p.fences, key, func(f fence, key string) int { return strings.Compare(f.upto, key) })
	listed := p.end
	if i < len(p.fences) {
		listed = p.fences[i].log
	}
	return first.after(listed)
}

// repair queues what was there at R of keys that had changed by the time they were listed.
func (p *snapshot) repair(ctx context.Context) error {
	w := p.w
	part, err := w.s.readLog(ctx, w.epoch, p.read, w.match, w.o.Key, true)
	if err != nil {
		return err
	}
	for _, c := range part.changes {
		key := c.entry.Key
		if c.id.after(p.end) {
			break
		}
		if _, ok := p.seen[key]; ok {
			continue
		}
		p.seen[key] = struct{}{}
		if c.kind == backend.Created || p.delivered(key, c.id) {
			continue
		}
		if c.prev != nil {
			w.queue = append(w.queue, backend.Event{Kind: backend.Existing, Entry: *c.prev})
			continue
		}
		// What was there at R has left the log, and another program has overwritten it. The change takes its place.
		if c.kind == backend.Updated {
			w.queue = append(w.queue, backend.Event{Kind: backend.Existing, Entry: c.entry})
		}
		if w.folded == nil {
			w.folded = map[string]id{}
		}
		w.folded[key] = c.id
	}
	p.read = part.at
	return nil
}
