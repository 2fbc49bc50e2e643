package watch

// Waiting is how many changes are held because s has not come for them: those
// between its place and where the chain was cut.
func Waiting[T any](s *Subscription[T]) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seg == nil {
		return 0
	}
	n = -s.i
	for seg := s.seg; seg != nil; seg = seg.next.Load() {
		n += int(seg.n.Load())
	}
	return n + len(s.ready)
}
