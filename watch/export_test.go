package watch

// Waiting is how many items are held for s.
func Waiting[T any](s *Subscription[T]) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cap(s.queue.items)
}
