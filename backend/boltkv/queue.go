package boltkv

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
)

// commitQueue is the writes that wait for the next transaction. While one is
// being synced, others gather and then share the next, so that concurrent
// writers share syncs and a single one waits for nobody.
//
// A goroutine commits them, because a caller may have to return before its
// transaction gets its turn or is synced. To hand a write over and be woken
// costs about a tenth of a sync, so a caller that finds the queue empty and
// need not fear that commits its write itself.
type commitQueue struct {
	mu      sync.Mutex
	waiting []*request
	busy    bool // somebody commits, or is about to
	running bool // the goroutine
	wake    chan struct{}
	stop    chan struct{} // closed by Close

	exposed atomic.Bool  // others may write to the database
	slow    atomic.Int64 // until when syncs are taken to be slow, in Unix ms
}

// request is one write.
type request struct {
	run   func(*table) error
	taken bool // into a transaction; guarded by commitQueue.mu
	err   error
	done  chan struct{} // closed when err is set; nil if its caller commits
}

const (
	batchRequests = 512         // writes that share a transaction, at most
	idleCommitter = time.Second // how long the goroutine stays for the next write
	slowCommit    = 20 * time.Millisecond
	slowFor       = 10 * time.Second // after a slow commit, no caller commits itself
)

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
	if !e.enter() {
		return backend.ErrClosed
	}
	defer e.work.Done()
	r := &request{run: f}
	q := &e.commits
	q.mu.Lock()
	if !q.busy && e.mayCommit(ctx) {
		q.busy, r.taken = true, true
		q.mu.Unlock()
		e.commitNext(r)
		e.pass()
		return r.err
	}
	r.done = make(chan struct{})
	q.waiting = append(q.waiting, r)
	if !q.busy {
		q.busy = true
		e.wakeCommitter()
	}
	q.mu.Unlock()

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

// mayCommit reports whether a caller may commit by itself: if nothing would
// have it return early, or if what it would wait for is short. That is one's
// own sync, on a disk that was fast up to now, when nobody else can hold the
// write transaction.
func (e *engine) mayCommit(ctx context.Context) bool {
	if ctx.Done() == nil {
		return true
	}
	return e.owned && !e.commits.exposed.Load() && time.Now().UnixMilli() >= e.commits.slow.Load()
}

// pass gives the queue to the committer, if anything waits.
func (e *engine) pass() {
	q := &e.commits
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.busy = false
		return
	}
	e.wakeCommitter()
}

// wakeCommitter has the goroutine commit what waits. The caller holds mu, and
// has the queue busy.
func (e *engine) wakeCommitter() {
	q := &e.commits
	if !q.running {
		q.running = true
		e.work.Go(e.commitWaiting)
	}
	select {
	case q.wake <- struct{}{}:
	default:
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

// take takes what waits into batch.
func (q *commitQueue) take(batch []*request) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), batchRequests)
	for _, r := range q.waiting[:n] {
		r.taken = true
		batch = append(batch, r)
	}
	q.waiting = slices.Delete(q.waiting, 0, n)
	return batch
}

// settle ends the turn of the committer if nothing waits.
func (q *commitQueue) settle() (more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = len(q.waiting) > 0
	return q.busy
}

// commitWaiting is the committer. It stays for a while, so that not every
// write begins a goroutine.
func (e *engine) commitWaiting() {
	q := &e.commits
	idle := time.NewTimer(idleCommitter)
	defer idle.Stop()
	for {
		select {
		case <-q.wake:
			for more := true; more; more = q.settle() {
				e.commitNext(nil)
			}
			idle.Reset(idleCommitter)
		case <-idle.C:
			if q.leave() {
				return
			}
			idle.Reset(idleCommitter)
		case <-q.stop: // who still comes begins another one
			if q.leave() {
				return
			}
		}
	}
}

// leave ends the goroutine, unless somebody is about to wake it.
func (q *commitQueue) leave() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wake) > 0 {
		return false
	}
	q.running = false
	return true
}
