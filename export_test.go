package kv

// Held is about how many bytes w holds for its reader.
func Held[T any](w *Watch[T]) int {
	s := w.sub
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return max(s.queue.bytes, len(s.queue.events)*eventBytes) + len(s.dirty)*eventBytes + len(s.base)*eventBytes
}

// Marks is how many places in the stream are kept for those who wait in a Sync
// of w, or did.
func Marks[T any](w *Watch[T]) int {
	s := w.sub
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return max(len(s.marks), len(s.taken), len(s.h.asked)+len(s.h.waiting))
}
