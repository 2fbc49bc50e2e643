package boltkv

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/btree"
	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
	"github.com/polykv/kv/internal/keys"
)

// A page of a list is read in one short transaction.
const (
	pageEntries = 512
	pageBytes   = 512 << 10
)

// lister reads the pages of one list.
type lister struct {
	e        *engine
	st       *state
	scope    embedded.Range
	keysOnly bool
	undo     *undo
	at       int64 // when the list began, in ms: what expired before is not listed
}

// start begins the list of r. Keys whose time has come are removed first, so
// that all that is there is part of the snapshot. f, if not nil, is called with
// the snapshot's revision before anything later is published. The caller calls
// close, which f may cause as well.
func (l *lister) start(
	ctx context.Context, e *engine, r embedded.Range, keysOnly bool, f func(backend.Revision) error,
) error {
	st, err := e.load(ctx)
	if err != nil {
		return err
	}
	if err := e.reapDue(ctx); err != nil {
		return err
	}
	*l = lister{e: e, st: st, scope: r, keysOnly: keysOnly, undo: newUndo(r, keysOnly), at: time.Now().UnixMilli()}
	st.mu.Lock()
	defer st.mu.Unlock()
	l.undo.revision = st.feed.Last()
	st.undos.add(l.undo)
	if f == nil {
		return nil
	}
	if err := f(l.undo.revision); err != nil {
		l.close()
		return err
	}
	return nil
}

func (l *lister) close() { l.st.undos.remove(l.undo) }

// reapDue removes what has expired, if there is anything.
func (e *engine) reapDue(ctx context.Context) error {
	if e.db.IsReadOnly() {
		return nil
	}
	for {
		due, err := e.anyDue(ctx)
		if err != nil || !due {
			return err
		}
		err = e.write(ctx, nil, func(t *table) error {
			_, err := t.reap(reapAtOnce)
			return err
		})
		if err != nil {
			return err
		}
	}
}

func (e *engine) anyDue(ctx context.Context) (due bool, err error) {
	v, err := e.view(ctx)
	if err != nil {
		return false, err
	}
	defer v.release()
	defer rescue(&err)
	if v.meta == nil {
		return false, nil
	}
	k, _ := v.expiries().Cursor().First()
	if k == nil {
		return false, nil
	}
	deadline, _, err := parseExpiry(k)
	return err == nil && deadline <= time.Now().UnixMilli(), err
}

// page is a part of a list.
type page struct {
	entries []backend.Entry // directories have no revision
	foreign []string        // keys that have to be adopted before the page is right
	next    string          // where the next page begins
	done    bool            // there is none
}

// read reads the page that begins at from. What other programs wrote is
// adopted on the way, page by page.
func (l *lister) read(ctx context.Context, from string) (page, error) {
	for {
		p, err := l.scan(ctx, from)
		if err != nil || len(p.foreign) == 0 {
			return p, err
		}
		if _, err := l.e.adopt(ctx, p.foreign); err != nil {
			return page{}, err
		}
	}
}

func (l *lister) scan(ctx context.Context, from string) (p page, err error) {
	tx, err := l.e.begin(ctx)
	if err != nil {
		return page{}, err
	}
	defer rollback(tx)
	defer func() { err = classify(err) }()
	defer rescue(&err)
	b := l.e.layout.open(tx)
	// What this transaction sees may be on its way to the watchers and to
	// undo. The committer, which is past its commit, waits for nobody.
	if err := l.e.awaitPublished(ctx, l.st, b); err != nil {
		return page{}, err
	}
	over, ok := l.undo.overlay(from)
	if !ok {
		return page{}, fmt.Errorf("%w: more was changed during the list than is kept for it", backend.ErrHistoryLost)
	}
	s := scanner{lister: l, over: over, writable: !l.e.db.IsReadOnly()}
	s.data.open(b.data)
	if err := s.sides.open(b); err != nil {
		return page{}, err
	}
	err = s.run(from)
	return s.page, err
}

// awaitPublished waits until watchers and lists know what b's transaction sees.
func (e *engine) awaitPublished(ctx context.Context, st *state, b buckets) error {
	rev := b.revision()
	if st.feed.Last() >= rev {
		return nil
	}
	if b.owner != e.id {
		return fmt.Errorf("%w: another Store has begun to write to bucket %q", backend.ErrClosed, e.layout.root)
	}
	return st.feed.Wait(ctx, rev, nil)
}

// scanner walks over values, records and undo together.
type scanner struct {
	*lister
	data     walker
	sides    sideWalker
	over     *btree.BTreeG[undone] // nil: nothing
	writable bool
	page     page
	bytes    int
}

// walker is a cursor that remembers where it is.
type walker struct {
	c    *bbolt.Cursor
	k, v []byte
}

func (w *walker) open(b *bbolt.Bucket) {
	if b != nil {
		w.c = b.Cursor()
	}
}

func (w *walker) seek(key string) {
	if w.c != nil {
		w.k, w.v = w.c.Seek([]byte(key))
	}
}

func (w *walker) next() { w.k, w.v = w.c.Next() }

// run fills the page.
func (s *scanner) run(from string) error {
	s.data.seek(from)
	s.sides.seek(from)
	for s.data.k != nil || s.sides.k != nil || s.over != nil {
		key, present, value, r, err := s.step(from)
		if err != nil {
			return err
		}
		if key == "" || !s.scope.Covers(key) {
			break
		}
		from = key + "\x00"
		if !present || r.Deadline != 0 && r.Deadline <= s.at {
			continue
		}
		name, next := s.scope.Place(key)
		if name == key {
			e := r.Entry(key)
			if e.Value = nil; !s.keysOnly {
				e.Value = bytes.Clone(value)
			}
			s.page.entries = append(s.page.entries, e)
			s.bytes += len(key) + len(e.Value)
		} else if name != "" {
			s.page.entries = append(s.page.entries, backend.Entry{Key: name})
			s.bytes += len(name)
		}
		if next != "" {
			from = next
			s.data.seek(from)
			s.sides.seek(from)
		}
		if len(s.page.entries) >= pageEntries || s.bytes >= pageBytes || len(s.page.foreign) >= pageEntries {
			s.page.next = from
			return nil
		}
	}
	s.page.done = true
	return nil
}

// step takes the first key at from or beyond off the cursors: with what the
// file says of it or, if it was changed since the snapshot, what the undo says.
// "" is the end.
func (s *scanner) step(from string) (key string, present bool, value []byte, r record, err error) {
	for s.data.k != nil && s.data.v == nil {
		s.data.next() // a nested bucket, somebody else's
	}
	k := s.data.k
	if k == nil || s.sides.k != nil && bytes.Compare(s.sides.k, k) < 0 {
		k = s.sides.k
	}
	if s.over != nil {
		var was undone
		found := false
		s.over.AscendGreaterOrEqual(undone{key: from}, func(u undone) bool {
			was, found = u, true
			return false
		})
		if found && (k == nil || was.key <= string(k)) {
			if was.key == string(k) {
				s.skip(k)
			}
			return was.key, was.Revision != 0, was.Value, record{Record: was.Record}, nil
		}
	}
	if k == nil {
		return "", false, nil, record{}, nil
	}
	key = string(k)
	var side []byte
	if bytes.Equal(k, s.sides.k) {
		side = s.sides.v
	}
	if bytes.Equal(k, s.data.k) {
		value = s.data.v
	}
	s.skip(k)
	switch {
	case side == nil && !keys.IsCanonical(key):
		s.e.skip(key)
		return key, false, nil, record{}, nil
	case side != nil:
		if r, err = parseRecord(side); err != nil {
			return "", false, nil, record{}, err
		}
		if value != nil && r.sum == checksum(value) {
			return key, true, value, r, nil
		}
	}
	if s.writable {
		s.page.foreign = append(s.page.foreign, key)
		return key, false, nil, record{}, nil
	}
	return key, value != nil, value, record{Record: embedded.Record{Revision: firstRevision}}, nil
}

// skip moves the cursors past k.
func (s *scanner) skip(k []byte) {
	if bytes.Equal(k, s.sides.k) {
		s.sides.next()
	}
	if bytes.Equal(k, s.data.k) {
		s.data.next()
	}
}

// List implements backend.Store.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		var l lister
		if err := s.list(ctx, &l, prefix, o); err != nil {
			yield(backend.Entry{}, err)
			return
		}
		defer l.close()
		n := 0
		for p := (page{next: l.scope.Start()}); !p.done; {
			var err error
			if p, err = s.nextPage(ctx, &l, p.next); err != nil {
				yield(backend.Entry{}, err)
				return
			}
			for _, e := range p.entries {
				n++
				if !yield(e, nil) || n == o.Limit {
					return
				}
			}
		}
	}
}

func (s *Store) list(ctx context.Context, l *lister, prefix string, o backend.ListOptions) error {
	if err := s.ready(ctx, o.GetOptions); err != nil {
		return err
	}
	return l.start(ctx, s.engine, embedded.RangeOf(prefix, o), o.KeysOnly, nil)
}

func (s *Store) nextPage(ctx context.Context, l *lister, from string) (page, error) {
	if err := s.usable(ctx); err != nil {
		return page{}, err
	}
	return l.read(ctx, from)
}
