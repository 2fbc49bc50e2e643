package boltkv

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// commitNext commits what waits, after the caller's own request if there is one.
func (e *engine) commitNext(own *request) {
	// The turn comes first, so that what waits for it can be withdrawn.
	tx, err := e.db.Begin(true)
	var batch []*request
	if own != nil {
		batch = append(batch, own)
	}
	batch = e.commits.take(batch)
	if err != nil {
		finish(batch, classify(err))
		return
	}
	start := time.Now()
	e.commitBatch(tx, batch)
	if time.Since(start) > slowCommit {
		e.commits.slow.Store(time.Now().Add(slowFor).UnixMilli())
	}
}

func finish(batch []*request, err error) {
	for _, r := range batch {
		if err != nil {
			r.err = err
		}
		if r.done != nil {
			close(r.done)
		}
	}
}

// commitBatch applies batch in tx and ends both.
func (e *engine) commitBatch(tx *bbolt.Tx, batch []*request) {
	st := e.loaded.Load()
	step := &embedded.Step{Locks: st.locks, Now: time.Now(), KeepPrev: e.o.WatchBuffer}
	t := &table{step: step, alarm: &e.alarm}
	step.Table = t
	defer step.Unpin()
	if err := e.apply(tx, t, batch); err != nil {
		rollback(tx)
		finish(batch, classify(err))
		return
	}
	if !t.dirty {
		rollback(tx)
		finish(batch, nil)
		return
	}
	id := int64(tx.ID())
	written := e.cache.begin(id, t.touched)
	if err := commit(tx); err != nil {
		// Whether the new meta page was written, and what of it a crash would
		// leave, bbolt does not tell. If readers see it, watchers must.
		if e.visible(step.Commits) {
			st.publish(step.Commits)
		}
		finish(batch, backend.Because(backend.ErrUncertain, err))
		return
	}
	e.trust.committed(id)
	written.end(t.sides.latest)
	e.claimed = true
	st.publish(step.Commits)
	finish(batch, nil)
}

// apply runs the requests of batch on t. An error spoils all of them.
func (e *engine) apply(tx *bbolt.Tx, t *table, batch []*request) (err error) {
	defer rescue(&err)
	if t.buckets, err = e.layout.create(tx); err != nil {
		return err
	}
	if t.sides, err = t.recordWriter(e.recentBytes); err != nil {
		return err
	}
	if t.owner == e.id {
		t.cache = &e.cache
	} else if err := e.claim(t); err != nil {
		return err
	}
	for _, r := range batch {
		r.err = r.run(t)
		if f := (*fault)(nil); r.err != nil && errors.As(r.err, &f) {
			return f
		}
	}
	if err := e.record(t); err != nil {
		return err
	}
	return t.sides.store()
}

// claim makes this engine's generation the last one.
func (e *engine) claim(t *table) error {
	if err := e.usable(); err != nil {
		return err
	}
	if e.claimed {
		err := fmt.Errorf("%w: another Store has begun to write to bucket %q", backend.ErrClosed, e.layout.root)
		e.depose(err)
		return err
	}
	if err := t.check(); err != nil {
		return err
	}
	generations, err := t.past()
	if err != nil {
		return err
	}
	st := e.loaded.Load()
	st.feed.Skip(t.revision()) // if somebody wrote since the state was read
	mine := generation{e.id, t.revision()}
	st.genMu.Lock()
	st.generations = append(generations, mine)
	st.genMu.Unlock()
	return t.claim(mine)
}

// visible reports whether readers see the last of commits.
func (e *engine) visible(commits []*embedded.Commit) (yes bool) {
	if len(commits) == 0 {
		return false
	}
	tx, err := e.db.Begin(false)
	if err != nil {
		return false
	}
	defer rollback(tx)
	defer rescue(&err)
	return e.layout.open(tx).revision() >= commits[len(commits)-1].Revision
}

// commit is tx.Commit with its panics as errors.
func commit(tx *bbolt.Tx) (err error) {
	defer rescue(&err)
	return tx.Commit()
}

// rollback ends a transaction whose outcome no longer matters.
func rollback(tx *bbolt.Tx) {
	_ = tx.Rollback() // its only error is that it has ended already
}
