package watch

import (
	"slices"
	"sync/atomic"
)

// handler is a function that wants the changes.
type handler[T any] struct {
	f       func(Change[T])
	stopped atomic.Bool
}

// OnChange has f called for each entry that is there, as new, and then for each
// change, in order and one at a time, on the mirror's goroutine: a slow f holds
// up the mirror, and one that waits for the mirror waits for ever. It returns
// at once, save on a mirror that has ended: f is then called for each entry
// before OnChange returns. stop ends the calls; one may be under way while it
// returns.
func (m *Mirror[T]) OnChange(f func(Change[T])) (stop func()) {
	h := &handler[T]{f: f}
	m.post(func() {
		for e := range m.All() {
			if h.stopped.Load() {
				return
			}
			f(Change[T]{Key: e.Key, New: e})
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if !h.stopped.Load() {
			m.handlers = append(m.handlers[:len(m.handlers):len(m.handlers)], h)
		}
	})
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		h.stopped.Store(true)
		if i := slices.Index(m.handlers, h); i >= 0 {
			m.handlers = slices.Delete(slices.Clone(m.handlers), i, i+1)
		}
	}
}

// post has f run on the mirror's goroutine, between two events, or at once if
// that has ended.
func (m *Mirror[T]) post(f func()) {
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		f()
		return
	}
	m.posted = append(m.posted, f)
	if m.interrupt != nil {
		m.interrupt()
	}
	m.mu.Unlock()
}
