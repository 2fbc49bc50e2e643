package watch

import "github.com/polykv/kv"

// item is what waits for a subscriber: a change, perhaps of several that were
// merged, or the end of what was there.
type item[T any] struct {
	Change[T]
	existing  bool // was there when the subscription began: nothing was told of it yet
	recreated bool // the key went and came again between Old and New
	synced    bool
}

func (i item[T]) isChange() bool { return !i.existing && !i.synced }

// void says that the key came and went, and nobody needs to know.
func (i item[T]) void() bool { return !i.synced && i.Old.Revision == 0 && i.New.Revision == 0 }

// event is what a subscriber gets, the first of two where recreated is set.
func (i item[T]) event() kv.Event[T] {
	if i.synced {
		return kv.Event[T]{Kind: kv.Synced}
	}
	ev := kv.Event[T]{Kind: kv.Updated, Entry: i.New}
	ev.Key = i.Key
	switch {
	case i.existing:
		ev.Kind = kv.Existing
	case i.New.Revision == 0 || i.recreated:
		ev.Kind, ev.Entry = kv.Deleted, kv.Entry[T]{Key: i.Key}
	case i.Old.Revision == 0:
		ev.Kind = kv.Created
	}
	if i.Old.Revision != 0 {
		ev.Prev = &i.Old
	}
	return ev
}

// pending is the queue of one subscriber.
type pending[T any] struct {
	items   []item[T]
	head    int // of items: what is before it was popped
	void    int // how many of items tell nothing
	changes int // how many of items are changes
	// index has the place of each key's item, while merging: from when the
	// buffer was full until the queue has run empty.
	index map[string]int
}

func (p *pending[T]) push(i item[T]) {
	if p.index != nil && !i.synced {
		if at, ok := p.index[i.Key]; ok {
			p.merge(at, i)
			return
		}
	}
	if dead := p.head + p.void; dead >= 64 && dead > len(p.items)/2 {
		p.compact()
	}
	p.items = append(p.items, i)
	if i.isChange() {
		p.changes++
	}
	if p.index != nil && !i.synced {
		p.index[i.Key] = len(p.items) - 1
	}
}

// merge makes the item at one that takes the reader from the state before it
// to the one after i.
func (p *pending[T]) merge(at int, i item[T]) {
	was := &p.items[at]
	wasVoid := was.void()
	if was.New.Revision == 0 && was.Old.Revision != 0 && i.New.Revision != 0 {
		was.recreated = true
	}
	was.New = i.New
	if was.New.Revision == 0 {
		was.recreated = false
	}
	switch {
	case was.void() && !wasVoid:
		p.void++
	case !was.void() && wasVoid:
		p.void--
	}
}

// startMerging folds what waits to one item for each key.
func (p *pending[T]) startMerging() {
	if p.index != nil {
		return
	}
	old := p.items[p.head:]
	*p = pending[T]{index: make(map[string]int, len(old))}
	for _, i := range old {
		p.push(i)
	}
}

// compact lets go of what was popped and of what tells nothing.
func (p *pending[T]) compact() {
	kept := make([]item[T], 0, 2*(len(p.items)-p.head-p.void)+1)
	if p.index != nil {
		clear(p.index)
	}
	p.changes = 0
	for _, i := range p.items[p.head:] {
		if i.void() {
			continue
		}
		if i.isChange() {
			p.changes++
		}
		if p.index != nil && !i.synced {
			p.index[i.Key] = len(kept)
		}
		kept = append(kept, i)
	}
	p.items, p.head, p.void = kept, 0, 0
}

// pop returns the oldest event.
func (p *pending[T]) pop() (kv.Event[T], bool) {
	for p.head < len(p.items) {
		i := &p.items[p.head]
		if i.recreated {
			ev := i.event()
			i.recreated, i.Old = false, kv.Entry[T]{}
			return ev, true
		}
		ev, void := i.event(), i.void()
		if i.isChange() {
			p.changes--
		}
		if p.index != nil && !i.synced {
			delete(p.index, i.Key)
		}
		if void {
			p.void--
		}
		p.items[p.head] = item[T]{}
		if p.head++; p.head == len(p.items) {
			*p = pending[T]{}
		}
		if !void {
			return ev, true
		}
	}
	return kv.Event[T]{}, false
}
