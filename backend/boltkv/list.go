package boltkv

import (
	"context"
	"iter"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// lister reads the pages of one list.
type lister struct {
	e        *engine
	st       *state
	scope    embedded.Range
	keysOnly bool
	undo     *undo
	at       int64 // when the list began, in ms: what expired before is not listed
	check    check
	size     int  // of the next page, in entries
	page     page // the last one that was read
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
	before, err := e.awaitVisible(ctx, st)
	if err != nil {
		return err
	}
	*l = lister{
		e: e, st: st, scope: r, keysOnly: keysOnly, undo: newUndo(r, keysOnly), size: firstPage,
		at: time.Now().UnixMilli(), page: page{next: r.Start()},
	}
	// What the undo shows instead of what is there is not compared. This engine
	// wrote it after that view; did others as well, the list has missed it.
	l.check.at = before
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

// awaitVisible waits until what a Get could see when it was called is published:
// a list that a caller makes after a Get is not older than that. It returns the
// number of a view that has no more than is published.
func (e *engine) awaitVisible(ctx context.Context, st *state) (id int64, err error) {
	v, err := e.view(ctx)
	if err != nil {
		return 0, err
	}
	defer v.release()
	defer func() { err = classify(err) }()
	defer rescue(&err)
	return v.id, e.awaitPublished(ctx, st, v.buckets)
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
		for !l.page.done {
			if err := s.nextPage(ctx, &l); err != nil {
				yield(backend.Entry{}, err)
				return
			}
			for i := range l.page.lines {
				n++
				if !yield(l.page.entry(i), nil) || n == o.Limit {
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

func (s *Store) nextPage(ctx context.Context, l *lister) error {
	if err := s.session.Usable(ctx); err != nil {
		return err
	}
	return l.read(ctx)
}
