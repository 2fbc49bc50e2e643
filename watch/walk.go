package watch

import (
	"github.com/google/btree"

	"github.com/polykv/kv"
)

// tree is the entries of a mirror, by key. Taking a Clone costs next to nothing,
// and what is not changed later is shared.
type tree[T any] = btree.BTreeG[kv.Entry[T]]

func newTree[T any]() *tree[T] {
	return btree.NewG(16, func(a, b kv.Entry[T]) bool { return a.Key < b.Key })
}

// walk tells the differences between two states of a mirror in byte order of
// keys, a page at a time, so that a subscriber who does not come holds no list
// of them.
type walk[T any] struct {
	from, to *tree[T] // from is nil for a subscriber who knows nothing yet
	after    string   // the last key that was compared
	old, now []kv.Entry[T]
}

// walkPage is how many entries of each state are compared at a time.
const walkPage = 64

// first makes of a key the one that comes next, in the order of keys.
const first = "\x00"

// page appends the next events; more is false if they were the last.
func (w *walk[T]) page(events []kv.Event[T]) (_ []kv.Event[T], more bool) {
	if w.from == nil {
		return w.existing(events)
	}
	w.old = entriesAfter(w.old[:0], w.from, w.after)
	w.now = entriesAfter(w.now[:0], w.to, w.after)
	old, now := w.old, w.now
	// Beyond the end of a page that is full, only one state is known.
	end := ""
	for _, page := range [][]kv.Entry[T]{old, now} {
		if len(page) == walkPage {
			if last := page[walkPage-1].Key; end == "" || last < end {
				end, more = last, true
			}
		}
	}
	covers := func(page []kv.Entry[T]) bool { return len(page) > 0 && (!more || page[0].Key <= end) }
	for covers(old) || covers(now) {
		switch {
		case !covers(now) || covers(old) && old[0].Key < now[0].Key:
			events = append(events, gone(old[0]))
			old = old[1:]
		case !covers(old) || now[0].Key < old[0].Key:
			events = append(events, kv.Event[T]{Kind: kv.Created, Entry: now[0]})
			now = now[1:]
		default:
			events = appendDifference(events, old[0], now[0])
			old, now = old[1:], now[1:]
		}
	}
	w.after = end
	if !more {
		*w = walk[T]{}
	}
	return events, more
}

// existing is page for a subscriber who knows nothing yet.
func (w *walk[T]) existing(events []kv.Event[T]) (_ []kv.Event[T], more bool) {
	w.to.AscendGreaterOrEqual(kv.Entry[T]{Key: w.after + first}, func(e kv.Entry[T]) bool {
		events = append(events, kv.Event[T]{Kind: kv.Existing, Entry: e})
		return len(events) < walkPage
	})
	if len(events) < walkPage {
		return events, false
	}
	w.after = events[walkPage-1].Key
	return events, true
}

// entriesAfter appends up to a page of the entries whose keys are greater than after.
func entriesAfter[T any](page []kv.Entry[T], t *tree[T], after string) []kv.Entry[T] {
	t.AscendGreaterOrEqual(kv.Entry[T]{Key: after + first}, func(e kv.Entry[T]) bool {
		page = append(page, e)
		return len(page) < walkPage
	})
	return page
}

func gone[T any](old kv.Entry[T]) kv.Event[T] {
	return kv.Event[T]{Kind: kv.Deleted, Entry: kv.Entry[T]{Key: old.Key}, Prev: &old}
}

// appendDifference appends what takes a reader who knows old to now.
func appendDifference[T any](events []kv.Event[T], old, now kv.Entry[T]) []kv.Event[T] {
	switch {
	case old.Revision == now.Revision: // given once for each key
		return events
	case old.Created != now.Created && old.Created != 0 && now.Created != 0:
		return append(events, gone(old), kv.Event[T]{Kind: kv.Created, Entry: now})
	}
	return append(events, kv.Event[T]{Kind: kv.Updated, Entry: now, Prev: &old})
}
