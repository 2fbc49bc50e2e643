package consulkv

import (
	"cmp"
	"slices"

	"github.com/polykv/kv/backend"
)

// sorter puts the events of one read, which come by name, into the order of the
// writes, as far as limit bytes of them reach; what is beyond is pushed as it
// comes.
type sorter struct {
	limit  int
	push   tell
	bytes  int
	events []sortedEvent
}

type sortedEvent struct {
	backend.Event
	order uint64
}

// add takes ev, or fails as push does; then ev was not taken.
func (s *sorter) add(ev backend.Event, order uint64) error {
	if size := eventBytes(ev); s.bytes+size <= s.limit {
		s.bytes += size
		s.events = append(s.events, sortedEvent{ev, order})
		return nil
	}
	var err error
	s.flush(func(ev backend.Event) bool {
		err = s.push(ev, 0)
		return err == nil
	})
	if err == nil {
		err = s.push(ev, order)
	}
	return err
}

// flush gives what was taken, in order, and reports false if push does; the
// rest is kept.
func (s *sorter) flush(push func(backend.Event) bool) bool {
	slices.SortStableFunc(s.events, func(a, b sortedEvent) int { return cmp.Compare(a.order, b.order) })
	for i, ev := range s.events {
		if !push(ev.Event) {
			s.events = slices.Delete(s.events, 0, i)
			return false
		}
	}
	clear(s.events)
	s.events, s.bytes = s.events[:0], 0
	return true
}
