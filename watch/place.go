package watch

import "github.com/polykv/kv"

// place is where a subscriber is: how far it has come in the changes, and what
// comes before they go on. To take an event from it needs no lock and no
// allocation, save now and then for many.
type place[T any] struct {
	m      *Mirror[T]
	buffer uint64
	strict bool // nothing is merged: one who has to be told more than is kept is told nothing

	ready  []kv.Event[T] // worked out already
	page   []kv.Event[T] // where the walk puts them, page after page
	walk   *walk[T]      // comes before what is at the place
	begun  bool          // Synced was told
	merged []span        // of seg, before i: comes next
	spans  []span        // where merge puts them, segment after segment
	seg    *segment[T]
	i, n   int // of seg: what was taken, and what is known to be there
}

// next sets ev to the next event, if there is one.
func (p *place[T]) next(ev *kv.Event[T]) bool {
	for {
		switch {
		case len(p.ready) > 0:
			*ev = p.ready[0]
			p.ready = p.ready[1:]
			return true
		case p.walk != nil:
			p.step()
		case len(p.merged) > 0:
			at := p.merged[0]
			p.merged = p.merged[1:]
			if at != void {
				p.seg.tell(at, ev)
				return true
			}
		case p.i < p.n && !p.merges():
			p.seg.tell(span{uint8(p.i), uint8(p.i)}, ev)
			p.i++
			return true
		case p.i == segmentLen:
			if !p.advance() {
				return false
			}
		default:
			if p.n = int(p.seg.n.Load()); p.i == p.n {
				return false
			}
			if p.merges() {
				p.merged = p.seg.merge(p.spans[:0], p.i, p.n)
				p.spans, p.i = p.merged[:0], p.n
			}
		}
	}
}

// behind is how many changes there are beyond the place.
func (p *place[T]) behind() uint64 {
	return p.m.feed.total.Load() - (p.seg.first + uint64(p.i))
}

// merges reports whether more waits than is told one by one.
func (p *place[T]) merges() bool { return !p.strict && p.behind() > p.buffer }

// step takes a page of the differences.
func (p *place[T]) step() {
	var more bool
	p.ready, more = p.walk.page(p.page[:0])
	p.page = p.ready[:0]
	if more {
		return
	}
	p.walk, p.page = nil, nil
	if !p.begun {
		p.begun = true
		p.ready = append(p.ready, kv.Event[T]{Kind: kv.Synced})
	}
}

// advance goes to the next segment, or by differences to the newest stage. It
// fails when the subscription was closed meanwhile, and nobody keeps what is
// behind the place, or when that was cut off, for one who is strict.
func (p *place[T]) advance() bool {
	next := p.seg.next.Load()
	if next == nil && p.strict {
		return false
	}
	if next == nil || p.seg.state != nil && p.merges() {
		p.m.mu.Lock()
		newest := p.m.feed.beyond(p.seg)
		if newest != nil {
			next = newest.next.Load() // while the lock is held, nothing cuts it off
		}
		p.m.mu.Unlock()
		if newest != nil {
			p.walk = &walk[T]{from: p.seg.state, to: newest.state}
		}
	}
	if next == nil {
		return false
	}
	p.seg, p.i, p.n = next, 0, 0
	return true
}
