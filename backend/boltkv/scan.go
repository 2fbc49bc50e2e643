package boltkv

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/google/btree"
	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
	"github.com/polykv/kv/internal/keys"
)

// A page of a list is read in one short transaction. The first one is small,
// for lists of few keys and those that stop early.
const (
	firstPage   = 64
	pageEntries = 1024
	pageBytes   = 512 << 10
)

// read reads the next page. What other programs wrote is adopted on the way,
// page by page.
func (l *lister) read(ctx context.Context) error {
	for from := l.page.next; ; {
		if err := l.scan(ctx, from); err != nil || len(l.page.foreign) == 0 {
			return err
		}
		if _, err := l.e.adopt(ctx, l.page.foreign); err != nil {
			l.page.reset()
			l.page.next = from // for who tries again
			return err
		}
	}
}

// scan reads the page that begins at from. After an error the next one is the
// same.
func (l *lister) scan(ctx context.Context, from string) (err error) {
	l.page.reset()
	l.page.next = from
	v, err := l.e.view(ctx)
	if err != nil {
		return err
	}
	defer v.release()
	defer func() { err = classify(err) }()
	defer rescue(&err)
	// What this view sees may be on its way to the watchers and to undo. The
	// committer, which is past its commit, waits for nobody.
	if err := l.e.awaitPublished(ctx, l.st, v.buckets); err != nil {
		return err
	}
	over, ok := l.undo.overlay(from)
	if !ok {
		return fmt.Errorf("%w: more was changed during the list than is kept for it", backend.ErrHistoryLost)
	}
	s := scanner{lister: l, over: over, writable: !l.e.db.IsReadOnly()}
	s.trusted = s.writable && l.e.trust.covers(l.scope, v.id)
	s.data.open(v.data)
	if err := s.sides.open(v); err != nil {
		return err
	}
	if err := s.run(from); err != nil {
		l.page.reset()
		l.page.next = from
		return err
	}
	l.page.seal()
	l.size = min(4*l.size, pageEntries)
	if s.writable && len(l.page.foreign) == 0 {
		l.e.trust.page(&l.check, v.id)
		if l.page.done && !s.trusted {
			l.e.trust.done(&l.check, l.scope)
		}
	}
	return nil
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

// scanner walks over values, records and undo together. Its time is most of
// that of a list, so nothing is copied until it is known to be listed.
type scanner struct {
	*lister
	data     walker
	sides    sideWalker
	over     *btree.BTreeG[undone] // nil: nothing
	writable bool
	trusted  bool // checksums need not be compared
	item     item
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
		w.k, w.v = w.c.Seek(readOnly(key))
	}
}

func (w *walker) next() { w.k, w.v = w.c.Next() }

// run fills the page.
func (s *scanner) run(from string) error {
	s.data.seek(from)
	s.sides.seek(from)
	p, it := &s.page, &s.item
	for {
		if s.over == nil {
			last, err := s.together()
			if err != nil {
				return err
			}
			if s.full() {
				p.next = last + "\x00"
				return nil
			}
		}
		if err := s.take(from); err != nil {
			return err
		}
		if it.key == "" || !s.scope.Covers(it.key) {
			p.done = true
			return nil
		}
		next := s.add()
		switch {
		case next != "":
			s.data.seek(next)
			s.sides.seek(next)
		case s.over != nil || s.full():
			next = it.key + "\x00"
		}
		if from = next; s.full() {
			p.next = from
			return nil
		}
	}
}

func (s *scanner) full() bool {
	return len(s.page.lines) >= s.size || s.page.bytes >= pageBytes || len(s.page.foreign) >= pageEntries
}

// together takes the keys up to the first one that is not as nearly all are:
// with a value and a record in its bucket, which belong together, and listed
// itself. It returns the last key that it took. Everything that it needs for a
// key is in variables of its own: it is the inner loop of a list.
func (s *scanner) together() (last string, err error) {
	p, values, records := &s.page, s.data.c, s.sides.bucket.c
	if values == nil || records == nil || s.sides.moves != bucketMoves {
		return "", nil
	}
	var gathered []byte // where the records are not in their bucket
	if s.sides.i < len(s.sides.list) {
		gathered = s.sides.list[s.sides.i].key
	}
	var r record
	k, value, beside, side := s.data.k, s.data.v, s.sides.k, s.sides.v
	for value != nil && bytes.Equal(k, beside) && (gathered == nil || bytes.Compare(k, gathered) < 0) && !s.full() {
		key := text(k)
		if !s.scope.Covers(key) {
			break
		}
		if err := r.parse(side); err != nil {
			return "", err
		}
		name, next := s.scope.Place(key)
		if next != "" || len(name) != len(key) || !s.trusted && r.sum != checksum(value) {
			break
		}
		if r.Deadline == 0 || r.Deadline > s.at {
			p.add(key, value, !s.keysOnly).describe(&r)
		}
		last = key
		k, value = values.Next()
		beside, side = records.Next()
	}
	s.data.k, s.data.v = k, value
	s.sides.bucket.k, s.sides.bucket.v = beside, side
	s.sides.settle()
	return last, nil
}

// add adds what is to be listed for the item, and returns where to go on if
// that is not the key that follows.
func (s *scanner) add() (next string) {
	it := &s.item
	if !it.present || it.Deadline != 0 && it.Deadline <= s.at {
		return ""
	}
	name, next := s.scope.Place(it.key)
	switch {
	case len(name) == len(it.key):
		s.page.add(name, it.Value, !s.keysOnly).describe(&it.record)
	case name != "":
		s.page.add(name, nil, false)
	}
	return next
}

// item is a key as the scanner finds it, in memory of the transaction; "" at
// the end.
type item struct {
	key     string
	present bool
	record
}

// take takes the first key at from or beyond off the cursors: with what the
// file says of it or, if it was changed since the snapshot, what the undo says.
func (s *scanner) take(from string) error {
	for s.data.k != nil && s.data.v == nil {
		s.data.next() // a nested bucket, somebody else's
	}
	it := &s.item
	it.present, it.Value = false, nil
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
	if s.over != nil && s.takeUndone(from, k, order) {
		return nil
	}
	it.key = text(k)
	if k == nil {
		return nil
	}
	var value, side []byte
	if order <= 0 {
		value = s.data.v
		s.data.next()
	}
	if order >= 0 {
		side = s.sides.v
		s.sides.next()
	}
	return s.judge(value, side)
}

// judge decides what the value and the record of the item, nil where there is
// none, make of it.
func (s *scanner) judge(value, side []byte) error {
	it := &s.item
	switch {
	case side == nil && !keys.IsCanonical(it.key):
		s.e.skip(strings.Clone(it.key))
		return nil
	case side != nil:
		if err := it.parse(side); err != nil {
			return err
		}
		if value != nil && (s.trusted || it.sum == checksum(value)) {
			it.Value, it.present = value, true
			return nil
		}
	}
	if s.writable {
		s.page.foreign = append(s.page.foreign, strings.Clone(it.key)) // adopt keeps it
		return nil
	}
	it.present, it.record = value != nil, record{Record: embedded.Record{Value: value, Revision: firstRevision}}
	return nil
}

// takeUndone takes the first key at from or beyond that was changed since the
// snapshot, if it comes no later than k, where order has the cursors.
func (s *scanner) takeUndone(from string, k []byte, order int) (taken bool) {
	s.over.AscendGreaterOrEqual(undone{key: from}, func(was undone) bool {
		at := -1
		if k != nil {
			at = strings.Compare(was.key, text(k))
		}
		if at > 0 {
			return false
		}
		if at == 0 && order <= 0 {
			s.data.next()
		}
		if at == 0 && order >= 0 {
			s.sides.next()
		}
		s.item = item{was.key, was.Revision != 0, record{Record: was.Record}}
		taken = true
		return false
	})
	return taken
}
