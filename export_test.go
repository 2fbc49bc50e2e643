package kv

// Held is about how many bytes w holds for its reader.
func Held[T any](w *Watch[T]) int {
	s := w.sub
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return max(s.queue.bytes, len(s.queue.events)*eventBytes) + len(s.dirty)*eventBytes + len(s.base)*eventBytes
}
