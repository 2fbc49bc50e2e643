package zookeeperkv

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/polykv/kv/backend"
)

// List implements backend.Store. It walks the tree with up to 32 requests under way, and holds the names of one
// directory a level and of small ones ahead, and the values of as many keys as there are requests.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		dir, err := s.dir(prefix)
		if err == nil {
			_, err = fresh(ctx, s, s.link, o.GetOptions, func() (struct{}, error) { return struct{}{}, nil })
		}
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		// What the walk has asked for and nobody wants any more is given up with it.
		ctx, cancel := context.WithCancel(ctx)
		w := &walk{s: s, ctx: ctx, o: o, yield: yield, left: o.Limit}
		defer w.wait()
		defer cancel()
		if err := w.directory(dir); err != nil && err != errStopped {
			yield(backend.Entry{}, err)
		}
	}
}

// walk is a List under way.
type walk struct {
	s       *Store
	ctx     context.Context
	o       backend.ListOptions
	yield   func(backend.Entry, error) bool
	left    int      // of Limit
	pending []*fetch // requests that may still run
}

// item is a name in a directory: a key, or what lies below it. Byte order of keys is not the order in which a tree is
// walked, since "-" and "." sort before "/": "a", "a-b", "a/c". Taking "a" and "a/" for two items gives the right one.
type item struct {
	key   string // with a slash at the end for what lies below
	fetch *fetch
}

// fetch is a read of one node that was started ahead.
type fetch struct {
	path string
	done chan struct{}
	record
	names  []string // with listed, what is in the directory
	listed bool
	err    error
}

// errStopped ends a walk without an error.
var errStopped = errors.New("stopped")

// smallDirectory is of how many names a directory is read ahead, so that many small ones do not take a round trip
// each.
const smallDirectory = 256

// directory yields what lies below the node at dir.
func (w *walk) directory(dir string) error {
	names, ok, err := w.s.children(w.ctx, w.s.link, dir)
	if err != nil || !ok {
		return err
	}
	return w.below(dir, names)
}

// below yields what lies below the node at dir, in which names are.
func (w *walk) below(dir string, names []string) error {
	items := w.items(dir, names)
	ahead := 0
	for i := range items {
		for ; ahead < len(items) && ahead-i < w.lookahead(); ahead++ {
			w.start(items[ahead].fetch)
		}
		if err := w.item(&items[i]); err != nil {
			return err
		}
		items[i].fetch = nil
	}
	return nil
}

// lookahead is how many items are read ahead: two a node, and no more than are wanted.
func (w *walk) lookahead() int {
	if w.left > 0 {
		return 2 * min(pipeline, w.left)
	}
	return 2 * pipeline
}

// items sorts the names in a directory, and leaves out what lies before After.
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
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	return items
}

// start reads a node in the background, once.
func (w *walk) start(f *fetch) {
	if f.done != nil {
		return
	}
	f.done = make(chan struct{})
	read := w.s.get
	if w.o.KeysOnly {
		read = w.s.head
	}
	w.pending = append(w.pending, f)
	if len(w.pending) > 4*pipeline {
		w.pending = slices.DeleteFunc(w.pending, (*fetch).finished)
	}
	go func() {
		defer close(f.done)
		f.record, f.err = w.s.record(w.ctx, w.s.link, f.path, read)
		if n := f.stat.NumChildren; f.err == nil && !w.o.Children && 0 < n && n <= smallDirectory {
			f.names, f.listed, f.err = w.s.children(w.ctx, w.s.link, f.path)
		}
	}()
}

func (f *fetch) finished() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// wait waits for the requests that nobody waited for.
func (w *walk) wait() {
	for _, f := range w.pending {
		<-f.done
	}
}

func (w *walk) item(it *item) error {
	<-it.fetch.done
	f := it.fetch
	if f.err != nil {
		return f.err
	}
	if !strings.HasSuffix(it.key, "/") {
		if !w.s.live(f.record) {
			return nil
		}
		e := f.entry(it.key)
		if !w.o.KeysOnly {
			e.Value = f.data
		}
		return w.emit(e)
	}
	if f.stat.NumChildren == 0 {
		return nil
	}
	switch {
	case f.listed:
		names := f.names
		f.names = nil
		return w.below(f.path, names)
	case !w.o.Children:
		return w.directory(f.path)
	}
	any, err := w.s.anyBelow(w.ctx, it.key[:len(it.key)-1])
	if err != nil || !any {
		return err
	}
	return w.emit(backend.Entry{Key: it.key})
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
