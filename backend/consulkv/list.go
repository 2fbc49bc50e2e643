package consulkv

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/polykv/kv/backend"
)

// listBuffer is how many bytes of values a List holds before it turns to
// yielding them as they arrive.
const listBuffer = 4 << 20

// List implements backend.Store. It is one snapshot.
//
// One recursive read brings everything; Consul has no other. It is decoded
// entry by entry. Up to 4 MiB of values are gathered, sorted and yielded.
// Beyond, entries are yielded as they arrive, which holds one value at a time:
// Consul sorts by native name, and that is the order of keys as long as no
// name has an escape. A second request for the names tells where one has; what
// has to wait for it to be in order is held, value included, and that is the
// one case in which memory is not bounded by the names.
//
// With KeysOnly values are skipped and memory is that of the names. Children
// makes two requests that fetch no more than what is yielded, and a whole
// recursive read only if something changes in between.
//
// Errors: backend.ErrPermission, ErrUnavailable. Entries that the token must
// not read are left out by Consul without a word.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		n := 0
		var ended error
		out := func(e backend.Entry) bool {
			if o.After != "" && e.Key <= o.After {
				return true
			}
			if ended = backend.ContextError(ctx); ended != nil {
				return false
			}
			n++
			return yield(e, nil) && (o.Limit <= 0 || n < o.Limit)
		}
		native, err := s.prefix(prefix)
		var m mode
		if err == nil {
			m, err = s.mode(ctx, o.GetOptions)
		}
		switch {
		case err != nil:
		case o.Children:
			err = s.listChildren(ctx, prefix, native, m, o.KeysOnly, out)
		default:
			err = s.listAll(ctx, native, m, o.KeysOnly, out)
		}
		if err == nil {
			err = ended
		}
		if err != nil {
			yield(backend.Entry{}, err)
		}
	}
}

// listing is one recursive read that is being decoded.
type listing struct {
	s     *Store
	d     *scanner
	close func()
	now   time.Time
	keys  bool // leave values out
}

func (s *Store) startListing(ctx context.Context, native string, m mode, keysOnly bool) (*listing, error) {
	resp, err := s.fetch(ctx, native, true, m, "")
	if err != nil {
		return nil, err
	}
	d := newScanner(resp.body)
	l := &listing{s: s, d: d, now: time.Now(), keys: keysOnly, close: func() {
		d.free()
		resp.close()
	}}
	if err := d.list(); err != nil {
		l.close()
		return nil, unreadable(err)
	}
	return l, nil
}

// next returns the next visible entry and its native name, or io.EOF.
func (l *listing) next() (backend.Entry, string, error) {
	for {
		p, err := l.d.next()
		if err != nil {
			return backend.Entry{}, "", unreadable(err)
		}
		name := string(p.name)
		key, ok := l.s.space.Key(name)
		if !ok {
			l.s.skip(name)
			continue
		}
		if l.s.expired(p.flags, l.now) {
			l.s.reap.add(name, p.modify, p.flags)
			continue
		}
		var value []byte
		if !l.keys {
			if value, err = p.value(); err != nil {
				return backend.Entry{}, "", unreadable(err)
			}
		}
		return backend.Entry{
			Key:      key,
			Value:    value,
			Revision: backend.Revision(p.modify),
			Created:  backend.Revision(p.create),
			Expires:  expiresAt(p.flags),
		}, name, nil
	}
}

func (s *Store) listAll(ctx context.Context, native string, m mode, keysOnly bool, out func(backend.Entry) bool) error {
	l, err := s.startListing(ctx, native, m, keysOnly)
	if err != nil {
		return err
	}
	defer l.close()
	var held byKey
	bytes := 0
	for bytes <= listBuffer {
		e, _, err := l.next()
		if err == io.EOF {
			return emit(held, out)
		}
		if err != nil {
			return err
		}
		held = append(held, e)
		bytes += len(e.Value)
	}
	return s.listRest(ctx, native, m, l, held, out)
}

// listRest yields what is held and what is still to come, in order.
func (s *Store) listRest(ctx context.Context, native string, m mode, l *listing, held byKey, out func(backend.Entry) bool) error {
	base := s.space.Prefix("")
	ahead, err := s.escapedNames(ctx, native, m)
	if err != nil {
		return err
	}
	passed := s.space.Name(held[len(held)-1].Key)
	heap.Init(&held)
	var yielded string
	for {
		e, name, err := l.next()
		if err != nil && err != io.EOF {
			return err
		}
		if err == nil {
			if e.Key < yielded {
				// Written after the names were read, at a place that is
				// passed already.
				return fmt.Errorf("%w: the keys changed while they were listed", backend.ErrUnavailable)
			}
			heap.Push(&held, e)
			passed = name
		}
		ahead = ahead.after(passed)
		// A name without an escape that is still to come sorts after passed,
		// and one with an escape is among those ahead.
		for len(held) > 0 && (err == io.EOF || held[0].Key <= passed[len(base):] && ahead.beyond(held[0].Key)) {
			next := heap.Pop(&held).(backend.Entry)
			yielded = next.Key
			if !out(next) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// escapes are the names that have an escape, in native order, each with the
// least key among it and those that follow.
type escapes []struct{ name, least string }

// after drops the names up to and including name.
func (x escapes) after(name string) escapes {
	for len(x) > 0 && x[0].name <= name {
		x = x[1:]
	}
	return x
}

// beyond reports whether every key is greater than key.
func (x escapes) beyond(key string) bool { return len(x) == 0 || key < x[0].least }

// escapedNames reads the names below a native prefix and keeps those that are
// not their key's.
func (s *Store) escapedNames(ctx context.Context, native string, m mode) (escapes, error) {
	names, _, err := s.names(ctx, native, m, "")
	if err != nil {
		return nil, err
	}
	base := s.space.Prefix("")
	var x escapes
	for _, name := range names {
		if key, ok := s.space.Key(name); ok && name[len(base):] != key {
			x = append(x, struct{ name, least string }{name, key})
		}
	}
	for i := len(x) - 2; i >= 0; i-- {
		x[i].least = min(x[i].least, x[i+1].least)
	}
	return x, nil
}

// names reads the names below a native prefix, up to and including a separator
// if there is one, and the index of which they are all.
func (s *Store) names(ctx context.Context, native string, m mode, separator string) (names []string, index uint64, err error) {
	resp, err := s.fetch(ctx, native, false, m, "&keys"+params("separator", separator))
	if err != nil {
		return nil, 0, err
	}
	defer resp.close()
	d := newScanner(resp.body)
	defer d.free()
	if err := d.list(); err != nil {
		return nil, 0, unreadable(err)
	}
	for {
		name, err := d.nextName()
		if err == io.EOF {
			return names, resp.index, nil
		}
		if err != nil {
			return nil, 0, unreadable(err)
		}
		names = append(names, string(name))
	}
}

// byKey is a heap, and sorts.
type byKey []backend.Entry

func (h byKey) Len() int           { return len(h) }
func (h byKey) Less(i, j int) bool { return h[i].Key < h[j].Key }
func (h byKey) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byKey) Push(x any)        { *h = append(*h, x.(backend.Entry)) }
func (h *byKey) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = backend.Entry{}
	*h = old[:len(old)-1]
	return e
}
