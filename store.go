package kv

import (
	"context"
	"iter"
	"time"

	"github.com/polykv/kv/backend"
)

// The data methods of Store are those of Typed, for bytes that need no codec.
// A slice that is returned is the caller's; nil and empty are one value.

func (s *Store) raw() reader[[]byte] { return reader[[]byte]{s: s} }

// Get returns the entry at key: see [Typed.Get].
func (s *Store) Get(ctx context.Context, key string, opts ...GetOption) (Entry[[]byte], error) {
	e, err := s.get(ctx, key, getOptions(opts))
	if err != nil {
		return Entry[[]byte]{}, err
	}
	return Entry[[]byte]{Key: s.relative(e.Key), Value: e.Value, Revision: e.Revision, Created: e.Created, Expires: e.Expires}, nil
}

// GetMany returns what is at each of keys, in their order: see
// [Typed.GetMany].
func (s *Store) GetMany(ctx context.Context, keys []string, opts ...GetOption) ([]Lookup[[]byte], error) {
	es, err := s.getMany(ctx, keys, getOptions(opts))
	if err != nil {
		return nil, err
	}
	return s.raw().lookups(keys, es), nil
}

// Exists reports whether there is such a key: see [Typed.Exists].
func (s *Store) Exists(ctx context.Context, key string, opts ...GetOption) (bool, error) {
	return s.exists(ctx, key, getOptions(opts))
}

// Put writes value at key, whatever is there: see [Typed.Put].
func (s *Store) Put(ctx context.Context, key string, value []byte, opts ...WriteOption) (Entry[[]byte], error) {
	return s.raw().write(ctx, OpPut, key, value, backend.Always, 0, opts)
}

// Create writes value at key if there is no such key, else ErrExists: see
// [Typed.Create].
func (s *Store) Create(ctx context.Context, key string, value []byte, opts ...WriteOption) (Entry[[]byte], error) {
	return s.raw().write(ctx, OpCreate, key, value, backend.Absent, 0, opts)
}

// Update writes value at key if that is at revision rev, else ErrConflict: see
// [Typed.Update].
func (s *Store) Update(ctx context.Context, key string, value []byte, rev Revision, opts ...WriteOption) (Entry[[]byte], error) {
	return s.raw().write(ctx, OpUpdate, key, value, backend.AtRevision, rev, opts)
}

// Modify changes the value at key without losing anybody's update: see
// [Typed.Modify].
func (s *Store) Modify(ctx context.Context, key string, f func(*Entry[[]byte]) error, opts ...ModifyOption) (Entry[[]byte], error) {
	return s.raw().modify(ctx, key, f, opts)
}

// Delete removes key and leaves what lies below it: see [Typed.Delete].
func (s *Store) Delete(ctx context.Context, key string, opts ...DeleteOption) error {
	return s.delete(ctx, key, opts)
}

// DeletePrefix removes every key strictly below prefix: see
// [Typed.DeletePrefix].
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	return s.deletePrefix(ctx, prefix)
}

// List yields the entries strictly below prefix in byte order of their keys:
// see [Typed.List].
func (s *Store) List(ctx context.Context, prefix string, opts ...ListOption) iter.Seq2[Entry[[]byte], error] {
	return s.raw().list(ctx, prefix, opts)
}

// Watch opens an event stream over what List of prefix covers: see
// [Typed.Watch].
func (s *Store) Watch(ctx context.Context, prefix string, opts ...WatchOption) (*Watch[[]byte], error) {
	full, err := s.fullPrefix(OpWatch, prefix)
	if err != nil {
		return nil, err
	}
	return s.raw().watch(ctx, full, false, opts)
}

// WatchKey watches the one key, which need not exist: see [Typed.WatchKey].
func (s *Store) WatchKey(ctx context.Context, key string, opts ...WatchOption) (*Watch[[]byte], error) {
	full, err := s.full(OpWatch, key)
	if err != nil {
		return nil, err
	}
	return s.raw().watch(ctx, full, true, opts)
}

// Absent is the check that there is no such key: see [Typed.Absent].
func (s *Store) Absent(key string) Check { return s.condition(backend.Absent, key, 0) }

// Present is the check that there is such a key: see [Typed.Present].
func (s *Store) Present(key string) Check { return s.condition(backend.Present, key, 0) }

// AtRevision is the check that key is at revision rev: see [Typed.AtRevision].
func (s *Store) AtRevision(key string, rev Revision) Check {
	return s.condition(backend.AtRevision, key, rev)
}

// Register writes value at key and keeps the key alive: see [Typed.Register].
func (s *Store) Register(ctx context.Context, key string, value []byte, ttl time.Duration, opts ...RegisterOption) (*Registration[[]byte], error) {
	return s.raw().register(ctx, key, value, ttl, opts)
}
