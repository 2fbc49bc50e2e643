package boltkv

import (
	"bytes"
	"context"
	"fmt"

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

// page is a part of a list. It is valid until the next one is read.
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
	s.page.entries = s.buffer[:0]
	defer func() { s.buffer = s.page.entries }()
	for after := ""; ; { // the last key that was taken
		if after != "" && s.over != nil {
			from = after + "\x00"
		}
		it, err := s.take(from)
		if err != nil {
			return err
		}
		if it.key == "" || !s.scope.Covers(it.key) {
			s.page.done = true
			return nil
		}
		after = it.key
		next := s.add(it)
		if next != "" {
			from, after = next, ""
			s.data.seek(from)
			s.sides.seek(from)
		}
		if len(s.page.entries) >= pageEntries || s.bytes >= pageBytes || len(s.page.foreign) >= pageEntries {
			if s.page.next = from; after != "" {
				s.page.next = after + "\x00"
			}
			return nil
		}
	}
}

// add adds what is to be listed for it, and returns where to go on.
func (s *scanner) add(it item) (next string) {
	if !it.present || it.Deadline != 0 && it.Deadline <= s.at {
		return ""
	}
	name, next := s.scope.Place(it.key)
	switch {
	case name == it.key:
		e := it.Entry(it.key)
		if e.Value = nil; !s.keysOnly {
			e.Value = bytes.Clone(it.value)
		}
		s.page.entries = append(s.page.entries, e)
		s.bytes += len(it.key) + len(e.Value)
	case name != "":
		s.page.entries = append(s.page.entries, backend.Entry{Key: name})
		s.bytes += len(name)
	}
	return next
}

// item is a key as the scanner finds it; "" at the end.
type item struct {
	key     string
	present bool
	value   []byte
	record
}

// take takes the first key at from or beyond off the cursors: with what the
// file says of it or, if it was changed since the snapshot, what the undo says.
func (s *scanner) take(from string) (it item, err error) {
	for s.data.k != nil && s.data.v == nil {
		s.data.next() // a nested bucket, somebody else's
	}
	// Usually both cursors are at the same key.
	k, order := s.data.k, 0
	switch {
	case s.sides.k == nil:
		order = -1
	case k == nil:
		order = 1
	default:
		order = bytes.Compare(k, s.sides.k)
	}
	if order > 0 {
		k = s.sides.k
	}
	if s.over != nil {
		if was, ok := s.undone(from); ok && (k == nil || was.key <= string(k)) {
			if was.key == string(k) {
				s.pass(order)
			}
			return item{was.key, was.Revision != 0, was.Value, record{Record: was.Record}}, nil
		}
	}
	if k == nil {
		return item{}, nil
	}
	it.key = string(k)
	var side []byte
	if order >= 0 {
		side = s.sides.v
	}
	if order <= 0 {
		it.value = s.data.v
	}
	s.pass(order)
	switch {
	case side == nil && !keys.IsCanonical(it.key):
		s.e.skip(it.key)
		return it, nil
	case side != nil:
		if it.record, err = parseRecord(side); err != nil {
			return item{}, err
		}
		if it.value != nil && it.sum == checksum(it.value) {
			it.present = true
			return it, nil
		}
	}
	if s.writable {
		s.page.foreign = append(s.page.foreign, it.key)
		return it, nil
	}
	it.present, it.record = it.value != nil, record{Record: embedded.Record{Revision: firstRevision}}
	return it, nil
}

// pass moves on the cursors that stand at the lesser key: order compares that
// of the values with that of the records.
func (s *scanner) pass(order int) {
	if order <= 0 {
		s.data.next()
	}
	if order >= 0 {
		s.sides.next()
	}
}

// undone is the first key at from or beyond that was changed since the snapshot.
func (s *scanner) undone(from string) (was undone, ok bool) {
	s.over.AscendGreaterOrEqual(undone{key: from}, func(u undone) bool {
		was, ok = u, true
		return false
	})
	return was, ok
}
