package memkv

import (
	"bytes"
	"context"
	"iter"

	"github.com/google/btree"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// ready waits for what o asks for.
func (s *Store) ready(ctx context.Context, o backend.GetOptions) error {
	if o.AtLeast == 0 {
		return nil
	}
	return s.feed.Wait(ctx, o.AtLeast, s.session.Done())
}

// Get implements backend.Store.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	if err := s.ready(ctx, o); err != nil {
		return backend.Entry{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.session.Usable(ctx); err != nil {
		return backend.Entry{}, err
	}
	e, ok := s.get(key)
	if !ok {
		return backend.Entry{}, backend.ErrNotFound
	}
	return e, nil
}

// GetMany implements backend.Store. It is a snapshot.
func (s *Store) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	if err := s.ready(ctx, o); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.session.Usable(ctx); err != nil {
		return nil, err
	}
	entries := make([]backend.Entry, len(keys))
	for i, key := range keys {
		entries[i], _ = s.get(key)
	}
	return entries, nil
}

func (s *Store) get(key string) (backend.Entry, bool) {
	it, ok := s.items.Get(item{key: key})
	if !ok || it.record.Deadline != 0 && it.record.Expired(s.now()) {
		return backend.Entry{}, false
	}
	return it.entry(false), true
}

// entry is the item as it is handed out.
func (it item) entry(keyOnly bool) backend.Entry {
	e := it.record.Entry(it.key)
	if keyOnly {
		e.Value = nil
	} else {
		e.Value = bytes.Clone(e.Value)
	}
	return e
}

// snapshot is the tree as it is now, without what has expired.
func (s *Store) snapshot(ctx context.Context) (*btree.BTreeG[item], backend.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.session.Usable(ctx); err != nil {
		return nil, 0, err
	}
	if err := s.run(func(*embedded.Step) error { return nil }); err != nil {
		return nil, 0, err
	}
	return s.items.Clone(), s.revision, nil
}

// List implements backend.Store.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if err := s.ready(ctx, o.GetOptions); err != nil {
			yield(backend.Entry{}, err)
			return
		}
		items, at, err := s.snapshot(ctx)
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		if o.At != nil {
			*o.At = at
		}
		n := 0
		walk(items, embedded.RangeOf(prefix, o), func(name string, it item) bool {
			if err := backend.ContextError(ctx); err != nil {
				yield(backend.Entry{}, err)
				return false
			}
			e := backend.Entry{Key: name} // a directory
			if name == it.key {
				e = it.entry(o.KeysOnly)
			}
			n++
			return yield(e, nil) && n != o.Limit
		})
	}
}

// walk calls f for what r lists, with the item that it stands for or, for a
// directory, lies below it.
func walk(items *btree.BTreeG[item], r embedded.Range, f func(name string, it item) bool) {
	for from, more := r.Start(), true; more; {
		jump := ""
		items.AscendGreaterOrEqual(item{key: from}, func(it item) bool {
			if !r.Covers(it.key) {
				return false
			}
			var name string
			name, jump = r.Place(it.key)
			if name != "" && !f(name, it) {
				jump = ""
				return false
			}
			return jump == ""
		})
		from, more = jump, jump != ""
	}
}

// Watch implements backend.Store.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.session.Usable(ctx); err != nil {
		return nil, err
	}
	if err := s.run(func(*embedded.Step) error { return nil }); err != nil {
		return nil, err
	}
	stream := embedded.Stream{
		Session: s.session.Done(), Store: name, Epoch: s.epoch, Prefix: prefix, WatchOptions: o, From: s.revision,
	}
	if o.Snapshot {
		items := s.items.Clone()
		stream.Page = func(_ context.Context, after string) ([]backend.Entry, error) {
			return page(items, prefix, o.Key, after), nil
		}
	}
	w, err := s.feed.Watch(ctx, stream)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// pageEntries is how many entries of a snapshot a watch copies at once.
const pageEntries = 128

// page is the next entries of a snapshot below prefix or, with key, of it.
func page(items *btree.BTreeG[item], prefix string, key bool, after string) (entries []backend.Entry) {
	if key {
		if it, ok := items.Get(item{key: prefix}); ok && after == "" {
			entries = append(entries, it.entry(false))
		}
		return entries
	}
	walk(items, embedded.RangeOf(prefix, backend.ListOptions{After: after}), func(_ string, it item) bool {
		entries = append(entries, it.entry(false))
		return len(entries) < pageEntries
	})
	return entries
}
