package boltkv

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
	"github.com/polykv/kv/internal/keys"
)

// ready waits for what o asks for.
func (s *Store) ready(ctx context.Context, o backend.GetOptions) error {
	if err := s.session.Usable(ctx); err != nil {
		return err
	}
	if o.AtLeast == 0 {
		return nil
	}
	st, err := s.load(ctx)
	if err != nil {
		return err
	}
	return st.feed.Wait(ctx, o.AtLeast, s.session.Done())
}

// Get implements backend.Store.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	if err := s.ready(ctx, o); err != nil {
		return backend.Entry{}, err
	}
	v, err := s.view(ctx)
	if err != nil {
		return backend.Entry{}, err
	}
	e, found, err := v.get(&s.cache, key)
	v.release()
	switch {
	case err != nil:
		return backend.Entry{}, err
	case found == foreign:
		return s.getForeign(ctx, key)
	case found == absent:
		return backend.Entry{}, backend.ErrNotFound
	}
	return e, nil
}

// found is what a view says of a key.
type found uint8

const (
	absent found = iota
	present
	foreign // somebody else wrote or removed it, and nobody has looked since
)

// get returns the entry at key, with a value of its own.
func (v *view) get(c *cache, key string) (e backend.Entry, f found, err error) {
	defer rescue(&err)
	if v.data == nil {
		return backend.Entry{}, absent, nil
	}
	k := readOnly(key)
	value := v.data.Get(k)
	r, f, err := v.record(c, key)
	if err != nil {
		return backend.Entry{}, absent, err
	}
	switch {
	case value == nil && f == absent:
		return backend.Entry{}, absent, nil
	case value == nil, f == absent, r.sum != checksum(value):
		return backend.Entry{}, foreign, nil
	case r.Deadline != 0 && r.Expired(time.Now()):
		return backend.Entry{}, absent, nil
	}
	e = r.Entry(key)
	e.Value = bytes.Clone(value)
	return e, present, nil
}

// record returns the record of key.
func (v *view) record(c *cache, key string) (r record, f found, err error) {
	var l lookup
	if v.ours {
		var ok bool
		if r, ok, l = c.get(key, v.id); ok {
			return r, present, nil
		}
	}
	side, err := v.sideOf(readOnly(key))
	if side == nil || err != nil {
		return record{}, absent, err
	}
	if r, err = parseRecord(side); err != nil {
		return record{}, absent, err
	}
	if v.ours {
		l.put(v.id, r)
	}
	return r, present, nil
}

// getForeign returns what another program wrote, with the revision that it
// gets on this occasion.
func (s *Store) getForeign(ctx context.Context, key string) (backend.Entry, error) {
	if s.db.IsReadOnly() {
		return s.getUnadopted(ctx, key)
	}
	type result struct {
		r     embedded.Record
		found bool
	}
	res := new(result)
	err := s.step(ctx, func(t *table) (err error) {
		res.r, res.found, err = t.Get(key)
		return err
	})
	switch {
	case err != nil:
		return backend.Entry{}, err
	case !res.found || res.r.Expired(time.Now()):
		return backend.Entry{}, backend.ErrNotFound
	}
	e := res.r.Entry(key)
	e.Value = bytes.Clone(e.Value) // the ring has it as well
	return e, nil
}

// getUnadopted returns what another program wrote into a file in which
// nothing can be adopted.
func (s *Store) getUnadopted(ctx context.Context, key string) (e backend.Entry, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return backend.Entry{}, err
	}
	defer v.release()
	defer rescue(&err)
	value := v.data.Get(readOnly(key))
	if value == nil {
		return backend.Entry{}, backend.ErrNotFound
	}
	return backend.Entry{Key: key, Value: bytes.Clone(value), Revision: firstRevision}, nil
}

// GetMany implements backend.Store. It is a snapshot, but for keys that have to
// be adopted.
func (s *Store) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	if err := s.ready(ctx, o); err != nil {
		return nil, err
	}
	entries := make([]backend.Entry, len(keys))
	strange, err := s.getMany(ctx, keys, entries)
	if err != nil {
		return nil, err
	}
	for _, i := range strange {
		e, err := s.getForeign(ctx, keys[i])
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return nil, err
		}
		entries[i] = e
	}
	return entries, nil
}

// getMany fills entries, and returns the indices of those to be adopted.
func (s *Store) getMany(ctx context.Context, keys []string, entries []backend.Entry) (strange []int, err error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer v.release()
	for i, key := range keys {
		var f found
		if entries[i], f, err = v.get(&s.cache, key); err != nil {
			return nil, err
		}
		if f == foreign {
			strange = append(strange, i)
		}
	}
	return strange, nil
}

// Adopt implements backend.Store.
func (s *Store) Adopt(ctx context.Context, prefix string) (int64, error) {
	if err := s.session.Usable(ctx); err != nil {
		return 0, err
	}
	return s.adoptBelow(ctx, prefix)
}

// adoptBelow looks over all keys below prefix.
func (e *engine) adoptBelow(ctx context.Context, prefix string) (n int64, err error) {
	if e.db.IsReadOnly() {
		return 0, nil
	}
	var l lister
	if err := l.start(ctx, e, embedded.RangeOf(prefix, backend.ListOptions{}), true, nil); err != nil {
		return 0, err
	}
	defer l.close()
	for !l.page.done {
		if err := l.scan(ctx, l.page.next); err != nil {
			return n, err
		}
		if len(l.page.foreign) > 0 {
			l.check.useless = true // nobody looks at them again
		}
		adopted, err := e.adopt(ctx, l.page.foreign)
		if n += adopted; err != nil {
			return n, err
		}
	}
	return n, nil
}

// adopt gives revisions to what other programs did to keys.
func (e *engine) adopt(ctx context.Context, keys []string) (int64, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	n := new(int64)
	err := e.write(ctx, nil, func(t *table) error {
		*n = 0
		for _, key := range keys {
			before := len(t.step.Commits)
			if _, _, err := t.Get(key); err != nil {
				return err
			}
			*n += int64(len(t.step.Commits) - before)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return *n, nil
}

// below returns the keys below prefix that hold values.
func (t *table) below(prefix string) (found []string) {
	r := embedded.RangeOf(prefix, backend.ListOptions{})
	c := t.data.Cursor()
	for k, v := c.Seek([]byte(r.Start())); k != nil; k, v = c.Next() {
		key := string(k)
		if !r.Covers(key) {
			break
		}
		if v != nil && (keys.IsCanonical(key) || t.sides.get(k) != nil) {
			found = append(found, key)
		}
	}
	return found
}

// skip counts a name in the bucket that is no key, and tells of the first.
func (e *engine) skip(name string) {
	if e.skipped.Add(1) == 1 {
		e.log.Warn("boltkv: names in the bucket that are no keys are skipped", "bucket", e.layout.root, "first", name)
	}
}

// ForeignNames is how many times names in the root bucket were met and passed
// over because they are no keys: with empty segments, NUL, or not UTF-8.
func (s *Store) ForeignNames() int64 { return s.skipped.Load() }
