package watch

import "github.com/polykv/kv"

// Gather is the batch of events, and how many it had room for on the way.
func Gather[T any](events func(yield func(kv.Event[T]) bool)) (batched []kv.Event[T], room int) {
	var b batch[T]
	for ev := range events {
		b.add(ev)
		room = max(room, cap(b.all))
	}
	return b.events(), room
}

// Take is Next that has looked already how far behind s is, before the last
// changes came.
func Take[T any](s *Subscription[T]) (ev kv.Event[T], ok bool) {
	ok = s.at.Load().next(&ev)
	return ev, ok
}

// Waiting is how many changes are held because s has not come for them: those
// between its place and where the chain was cut.
func Waiting[T any](s *Subscription[T]) (n int) {
	p := s.at.Load()
	if p == nil {
		return 0
	}
	n = len(p.ready) + len(p.merged) - p.i
	for seg := p.seg; seg != nil; seg = seg.next.Load() {
		n += int(seg.n.Load())
	}
	return n
}
