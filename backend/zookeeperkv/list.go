package zookeeperkv

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
)

// List implements backend.Store. It walks the tree, and holds the names of one directory a level and of small ones
// ahead, and two pages of at most 64 keys with their values.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		dir, err := s.dir(prefix)
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		names, err := fresh(ctx, s, s.link, o.GetOptions, func() ([]string, error) {
			names, _, err := s.children(ctx, s.link, dir)
			return names, err
		})
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		// What the walk has asked for and nobody wants any more is given up with it.
		ctx, cancel := context.WithCancel(ctx)
		w := &walk{s: s, ctx: ctx, o: o, yield: yield, left: o.Limit, pages: pages{nodes: pageNodes}}
		defer w.pages.wait()
		defer cancel()
		w.todo = w.items(dir, names)
		if err := w.run(); err != nil && err != errStopped {
			yield(backend.Entry{}, err)
		}
	}
}

// walk is a List under way.
type walk struct {
	s     *Store
	ctx   context.Context
	o     backend.ListOptions
	yield func(backend.Entry, error) bool
	left  int    // of Limit
	todo  []item // what comes, the last first
	pages pages
}

// item is a name in a directory: a key, or what lies below it. Byte order of keys is not the order in which a tree is
// walked, since "-" and "." sort before "/": "a", "a-b", "a/c". Taking "a" and "a/" for two items gives the right one.
type item struct {
	key   string // with a slash at the end for what lies below
	fetch *fetch
}

func (it item) below() bool { return strings.HasSuffix(it.key, "/") }

// errStopped ends a walk without an error.
var errStopped = errors.New("stopped")

// run yields what is on the list of what comes.
func (w *walk) run() error {
	for len(w.todo) > 0 {
		f := w.todo[len(w.todo)-1].fetch
		if err := w.await(f); err != nil {
			return err
		}
		// A directory may have been opened meanwhile, and what is in it has taken its place.
		if len(w.todo) == 0 || w.todo[len(w.todo)-1].fetch != f {
			continue
		}
		it := w.todo[len(w.todo)-1]
		w.todo[len(w.todo)-1] = item{}
		w.todo = w.todo[:len(w.todo)-1]
		if err := w.item(it); err != nil {
			return err
		}
	}
	return nil
}

// items sorts the names in a directory, the last first, and leaves out what lies before After.
func (w *walk) items(dir string, names []string) []item {
	items := make([]item, 0, 2*len(names))
	for _, name := range names {
		path := join(dir, name)
		key, ok := w.s.canonical(path)
		if !ok {
			continue
		}
		f := &fetch{path: path}
		below := key + "/"
		// After may lie in the directory: then some of what is below it comes later.
		if below > w.o.After || !w.o.Children && strings.HasPrefix(w.o.After, below) {
			items = append(items, item{below, f})
		}
		if key > w.o.After {
			items = append(items, item{key, f})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(b.key, a.key) })
	return items
}

// item yields what it says.
func (w *walk) item(it item) error {
	f := it.fetch
	if !it.below() {
		if !w.s.live(f.record) {
			return nil
		}
		e := f.entry(it.key)
		if !w.o.KeysOnly {
			e.Value, f.data = f.data, nil
		}
		return w.emit(e)
	}
	if f.stat.NumChildren == 0 {
		return nil
	}
	if w.o.Children {
		any, err := w.s.anyBelow(w.ctx, it.key[:len(it.key)-1])
		if err != nil || !any {
			return err
		}
		return w.emit(backend.Entry{Key: it.key})
	}
	names := f.names
	if !f.listed {
		var err error
		if names, _, err = w.s.children(w.ctx, w.s.link, f.path); err != nil {
			return err
		}
	}
	w.todo = append(w.todo, w.items(f.path, names)...)
	return nil
}

func (w *walk) emit(e backend.Entry) error {
	if !w.yield(e, nil) {
		return errStopped
	}
	if w.left > 0 {
		if w.left--; w.left == 0 {
			return errStopped
		}
	}
	return nil
}

// anyBelow reports whether there is a key below prefix: a directory may be left over, or hold nothing but expired keys.
func (s *Store) anyBelow(ctx context.Context, prefix string) (bool, error) {
	o := backend.ListOptions{KeysOnly: true, Limit: 1, GetOptions: backend.GetOptions{Stale: true}}
	for _, err := range s.List(ctx, prefix, o) {
		return err == nil, err
	}
	return false, nil
}
