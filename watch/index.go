package watch

import (
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/polykv/kv"
)

// Index finds the entries of a mirror by something in them. It follows the
// mirror. Methods are safe for concurrent use.
type Index[K comparable, T any] struct {
	by   func(kv.Entry[T]) []K
	stop func()

	mu sync.RWMutex
	m  map[K]map[string]kv.Entry[T]
}

// NewIndex returns an index of m by the keys that by gives for an entry, none
// or many. It returns once the index is complete, and must not be called by a
// handler of the mirror. by runs on the mirror's goroutine and must give the
// same for the same entry. The index costs memory
// until Close, or until the mirror goes.
func NewIndex[K comparable, T any](m *Mirror[T], by func(kv.Entry[T]) []K) *Index[K, T] {
	ix := &Index[K, T]{by: by, m: map[K]map[string]kv.Entry[T]{}}
	ix.stop = m.OnChange(ix.change)
	complete := make(chan struct{})
	m.post(func() { close(complete) })
	<-complete // a mirror that has ended does what is posted all the same
	return ix
}

func (ix *Index[K, T]) change(c Change[T]) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if c.Old.Revision != 0 {
		for _, k := range ix.by(c.Old) {
			delete(ix.m[k], c.Key)
			if len(ix.m[k]) == 0 {
				delete(ix.m, k)
			}
		}
	}
	if c.New.Revision != 0 {
		for _, k := range ix.by(c.New) {
			if ix.m[k] == nil {
				ix.m[k] = map[string]kv.Entry[T]{}
			}
			ix.m[k][c.Key] = c.New
		}
	}
}

// Get yields the entries under k as they are now, in byte order of their keys.
func (ix *Index[K, T]) Get(k K) iter.Seq[kv.Entry[T]] {
	return func(yield func(kv.Entry[T]) bool) {
		ix.mu.RLock()
		entries := maps.Clone(ix.m[k])
		ix.mu.RUnlock()
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			if !yield(entries[key]) {
				return
			}
		}
	}
}

// Close takes the index off its mirror.
func (ix *Index[K, T]) Close() error {
	ix.stop()
	return nil
}
