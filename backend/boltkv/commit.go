package boltkv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// commitQueue is the writes that wait for the next transaction. While there are
// any, one goroutine commits them: it takes what has gathered while the last
// commit was being synced, so that concurrent writers share a sync and a single
// one waits for nobody.
type commitQueue struct {
	mu      sync.Mutex
	waiting []*request
	running bool // the committer
}

// request is one write.
type request struct {
	run   func(*table) error
	taken bool // by the committer; guarded by commitQueue.mu
	err   error
	done  chan struct{} // closed when err is set
}

// batchRequests bounds how many writes share a transaction.
const batchRequests = 512

// write runs f in a write transaction and returns once that is durable. done,
// if not nil, ends the waiting with ErrClosed as ctx does with its error. A
// write that was taken and then abandoned is ErrUncertain, and f goes on; its
// results must not share memory with what the caller returns.
//
// An error of f refuses this write only, unless it is a fault. f must not have
// written anything then.
func (e *engine) write(ctx context.Context, done <-chan struct{}, f func(*table) error) error {
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	if e.db.IsReadOnly() {
		return fmt.Errorf("%w: the file was opened read-only", backend.ErrPermission)
	}
	if _, err := e.load(ctx); err != nil {
		return err
	}
	r := &request{run: f, done: make(chan struct{})}
	q := &e.commits
	q.mu.Lock()
	q.waiting = append(q.waiting, r)
	if !q.running {
		q.running = e.spawn(e.commitAll)
	}
	running := q.running
	q.mu.Unlock()
	if !running {
		return backend.ErrClosed
	}

	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		if q.withdraw(r) {
			return backend.ContextError(ctx)
		}
		select {
		case <-r.done:
			return r.err
		default:
			return backend.Because(backend.ErrUncertain, backend.ContextError(ctx))
		}
	case <-done:
		if q.withdraw(r) {
			return backend.ErrClosed
		}
		<-r.done // Close waits for it as well
		return r.err
	}
}

// withdraw takes r out of the queue, if it still is there.
func (q *commitQueue) withdraw(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.taken {
		return false
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(o *request) bool { return o == r })
	return true
}

// take takes what waits. With nothing there it ends the committer.
func (q *commitQueue) take() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), batchRequests)
	batch := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	for _, r := range batch {
		r.taken = true
	}
	return batch
}

// idle ends the committer if nothing waits.
func (q *commitQueue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = len(q.waiting) > 0
	return !q.running
}

// commitAll is the committer.
func (e *engine) commitAll() {
	for !e.commits.idle() {
		// The turn comes first, so that what waits for it can be withdrawn.
		tx, err := e.db.Begin(true)
		batch := e.commits.take()
		if err != nil {
			finish(batch, classify(err))
			continue
		}
		e.commitBatch(tx, batch)
	}
}

func finish(batch []*request, err error) {
	for _, r := range batch {
		if err != nil {
			r.err = err
		}
		close(r.done)
	}
}

// commitBatch applies batch in tx and ends both.
func (e *engine) commitBatch(tx *bbolt.Tx, batch []*request) {
	st := e.loaded.Load()
	t := &table{step: &embedded.Step{Locks: st.locks, Now: time.Now(), KeepPrev: e.o.WatchBuffer}, alarm: &e.alarm}
	t.step.Table = t
	defer t.step.Unpin()
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
	if err := commit(tx); err != nil {
		// Whether the new meta page was written, and what of it a crash would
		// leave, bbolt does not tell. If readers see it, watchers must.
		if e.visible(t.step.Commits) {
			st.publish(t.step.Commits)
		}
		finish(batch, backend.Because(backend.ErrUncertain, err))
		return
	}
	e.claimed = true
	st.publish(t.step.Commits)
	finish(batch, nil)
}

// apply runs the requests of batch on t. An error spoils all of them.
func (e *engine) apply(tx *bbolt.Tx, t *table, batch []*request) (err error) {
	defer rescue(&err)
	if t.buckets, err = e.layout.create(tx); err != nil {
		return err
	}
	if err := e.claim(t); err != nil {
		return err
	}
	for _, r := range batch {
		r.err = r.run(t)
		if f := (*fault)(nil); errors.As(r.err, &f) {
			return f
		}
	}
	return e.record(t)
}

// claim makes sure that this engine's generation is the last one.
func (e *engine) claim(t *table) error {
	list := t.meta.Get([]byte(generationsKey))
	if lastGeneration(list) == e.id {
		return nil
	}
	if err := e.usable(); err != nil {
		return err
	}
	if e.claimed {
		err := fmt.Errorf("%w: another Store has begun to write to bucket %q", backend.ErrClosed, e.layout.root)
		e.depose(err)
		return err
	}
	generations, err := parseGenerations(list)
	if err != nil {
		return err
	}
	st := e.loaded.Load()
	st.feed.Skip(t.revision()) // if somebody wrote since the state was read
	generations = append(generations, generation{e.id, t.revision()})
	st.genMu.Lock()
	st.generations = generations
	st.genMu.Unlock()
	return t.write(t.meta.Put([]byte(generationsKey), appendGenerations(nil, generations)))
}

// visible reports whether readers see the last of commits.
func (e *engine) visible(commits []*embedded.Commit) bool {
	if len(commits) == 0 {
		return false
	}
	tx, err := e.db.Begin(false)
	if err != nil {
		return false
	}
	defer rollback(tx)
	b, err := e.layout.open(tx)
	return err == nil && b.revision() >= commits[len(commits)-1].Revision
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
