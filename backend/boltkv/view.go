package boltkv

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
)

// view is a read transaction that many Gets share, since most of the cost of a
// read in bbolt is that of beginning and ending its transaction and of opening
// the buckets. It is counted: the last one out ends it.
//
// A view is replaced as soon as anything was committed to the file, by this
// library or by others, and is let go after viewLifetime in any case: a read
// transaction keeps bbolt from reusing pages, from growing the map of the file
// and from closing, and nobody has to wait for that longer.
type view struct {
	buckets
	records *bbolt.Bucket
	id      int64 // of tx
	commits int64 // of the database when the view began
	ours    bool  // the records are written by this engine only
	refs    atomic.Int64
}

const viewLifetime = 10 * time.Millisecond

// acquire takes a reference, unless the view is over.
func (v *view) acquire() bool {
	for {
		n := v.refs.Load()
		if n == 0 {
			return false
		}
		if v.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// newer reports whether v should take the place of old. While a commit is
// being finished, views that began at the same count may see it or not, so the
// transaction decides first.
func (v *view) newer(old *view) bool {
	if v.id != old.id {
		return v.id > old.id
	}
	return v.commits > old.commits
}

// release gives the reference back.
func (v *view) release() {
	if v.refs.Add(-1) == 0 {
		rollback(v.tx)
	}
}

// views has the view that Gets share at the moment.
type views struct {
	current atomic.Pointer[view]

	mu     sync.Mutex
	newest int64 // number of a view that was current
	closed bool
}

// commitCount grows with every commit to db, whoever makes it, before Commit
// returns, unless db keeps no statistics.
func commitCount(db *bbolt.DB) int64 {
	s := db.Stats()
	return s.TxStats.GetWrite()
}

// view returns a view that has everything that was committed before the call.
// The caller releases it, and returns nothing that points into it.
func (e *engine) view(ctx context.Context) (*view, error) {
	if v := e.views.current.Load(); v != nil && v.acquire() {
		if v.commits == commitCount(e.db) {
			return v, nil
		}
		v.release()
		e.views.drop(v) // before there is a transaction of our own: see letGo
	}
	return e.openView(ctx)
}

func (e *engine) openView(ctx context.Context) (*view, error) {
	st, err := e.load(ctx)
	if err != nil {
		return nil, err
	}
	commits := commitCount(e.db)
	tx, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{id: int64(tx.ID()), commits: commits}
	if err := v.open(e, tx); err != nil {
		rollback(tx)
		return nil, classify(err)
	}
	v.refs.Store(1)
	if st.counted {
		e.views.install(v)
	}
	return v, nil
}

// open opens the buckets that every Get needs: views are shared, so nothing of
// them is set later.
func (v *view) open(e *engine, tx *bbolt.Tx) (err error) {
	defer rescue(&err)
	v.buckets = e.layout.open(tx)
	if v.meta != nil {
		v.records = v.buckets.records()
	}
	v.ours = v.owner == e.id
	return nil
}

// install makes v the current view, unless that is as new.
func (s *views) install(v *view) {
	if old, ok := s.swap(v); ok {
		time.AfterFunc(viewLifetime, func() { s.drop(v) })
		if old != nil { // somebody was faster, with an older one
			time.AfterFunc(0, old.letGo) // not here: the caller has v's transaction
		}
	}
}

func (s *views) swap(v *view) (old *view, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.refs.Add(1)
	for {
		// A view that was current may have been dropped meanwhile, and what
		// one Get has seen in it the next one must see.
		if old = s.current.Load(); s.closed || v.id < s.newest || old != nil && !v.newer(old) {
			v.refs.Add(-1) // the caller has another
			return nil, false
		}
		if s.current.CompareAndSwap(old, v) {
			s.newest = v.id
			return old, true
		}
	}
}

// drop lets go of v if it still is the current view.
func (s *views) drop(v *view) {
	if s.current.CompareAndSwap(v, nil) {
		v.letGo()
	}
}

// letGo gives back the reference of the current view. It is never called by
// somebody who has another transaction, nor with a lock held that such a one may
// wait for: bbolt ends a transaction only when no other one is about to begin,
// and lets none begin while a writer waits for all others to end.
func (v *view) letGo() {
	if v != nil {
		v.release()
	}
}

func (s *views) close() {
	s.mu.Lock()
	s.closed = true
	v := s.current.Swap(nil)
	s.mu.Unlock()
	v.letGo()
}

// begin starts a read transaction. bbolt may make it wait, behind a long read
// transaction that somebody else holds and a writer that waits for it, so it is
// done where ctx need not wait with it.
func (e *engine) begin(ctx context.Context) (*bbolt.Tx, error) {
	if ctx.Done() == nil {
		tx, err := e.db.Begin(false)
		return tx, classify(err)
	}
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	type result struct {
		tx  *bbolt.Tx
		err error
	}
	ch := make(chan result)
	started := e.spawn(func() {
		tx, err := e.db.Begin(false)
		select {
		case ch <- result{tx, classify(err)}:
		case <-ctx.Done():
			if err == nil {
				rollback(tx)
			}
		}
	})
	if !started {
		return nil, backend.ErrClosed
	}
	select {
	case r := <-ch:
		return r.tx, r.err
	case <-ctx.Done():
		return nil, backend.ContextError(ctx)
	}
}
