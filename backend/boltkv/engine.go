package boltkv

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// engine is what the stores on one bucket share. It lives from New to the
// Close of the last of them.
type engine struct {
	db     *bbolt.DB
	owned  bool // close db at the end
	o      Options
	limits embedded.Limits
	layout layout
	bad    error // of the options
	log    *slog.Logger

	views   views
	cache   cache
	trust   trust
	commits commitQueue
	alarm   embedded.Alarm // goes off when the next key expires
	work    sync.WaitGroup // goroutines
	id      uint64         // of the generation
	claimed bool           // the generation is in the file; of who commits

	recentBytes int // of records that are gathered; set by read

	loadMu sync.Mutex
	loaded atomic.Pointer[state]

	mu      sync.Mutex
	clients int
	over    bool         // the last store has closed
	deposed error        // another engine has taken over
	skipped atomic.Int64 // foreign names that are no keys
}

// state is what the first call that needs it reads from the file.
type state struct {
	feed    *embedded.Feed
	locks   *embedded.Locks
	counted bool // the database keeps statistics, so that views can be shared

	// mu makes publishing and the opening of snapshots exclude each other.
	mu    sync.Mutex
	undos undos

	genMu       sync.Mutex
	generations []generation
}

const (
	minTTL   = time.Second
	minLease = time.Second
)

// load returns the state, and reads it at the first call. An error is not
// remembered: the next call tries again.
func (e *engine) load(ctx context.Context) (*state, error) {
	if st := e.loaded.Load(); st != nil {
		return st, nil
	}
	if e.bad != nil {
		return nil, e.bad
	}
	tx, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer rollback(tx)
	e.loadMu.Lock()
	defer e.loadMu.Unlock()
	if st := e.loaded.Load(); st != nil {
		return st, nil
	}
	st, next, err := e.read(tx)
	if err != nil {
		return nil, classify(err)
	}
	e.loaded.Store(st)
	if next != 0 && !e.db.IsReadOnly() {
		setAlarm(&e.alarm, next)
	}
	return st, nil
}

// read makes the state of what tx sees, and returns the first deadline.
func (e *engine) read(tx *bbolt.Tx) (st *state, next int64, err error) {
	defer rescue(&err)
	b := e.layout.open(tx)
	if err := b.check(); err != nil {
		return nil, 0, err
	}
	// bbolt keeps a bucket within its parent's page up to a quarter of the
	// page's size; the rest of the bucket takes up to 160 bytes.
	e.recentBytes = e.db.Info().PageSize/4 - 160
	st = &state{undos: undos{all: map[*undo]struct{}{}}, counted: e.db.Stats().TxN > 0}
	var fence uint64
	if b.meta != nil {
		if st.generations, err = b.past(); err != nil {
			return nil, 0, err
		}
		if fence, err = parseFence(b.meta.Get([]byte(fenceKey))); err != nil {
			return nil, 0, err
		}
		if k, _ := b.expiries().Cursor().First(); k != nil {
			if next, _, err = parseExpiry(k); err != nil {
				return nil, 0, err
			}
		}
	}
	st.feed = embedded.NewFeed(b.revision(), e.o.WatchBuffer)
	st.locks = embedded.NewLocks(minLease, fence, e.reserveTokens)
	return st, next, nil
}

// setAlarm sets a to a deadline on the wall clock. Once a minute it looks in
// any case, because somebody may put that clock forward.
func setAlarm(a *embedded.Alarm, deadline int64) {
	a.Set(time.Now().Add(min(time.Until(time.UnixMilli(deadline)), time.Minute)))
}

// reapAtOnce bounds how many keys one transaction reaps.
const reapAtOnce = 1000

// reap is what the alarm does.
func (e *engine) reap() {
	var next int64
	err := e.write(context.Background(), nil, func(t *table) (err error) {
		next, err = t.reap(reapAtOnce)
		return err
	})
	switch {
	case err != nil && e.usable() == nil:
		e.log.Warn("boltkv: removing expired keys failed; trying again in a second", "error", err)
		e.alarm.Set(time.Now().Add(time.Second))
	case next != 0:
		setAlarm(&e.alarm, next)
	}
}

// usable is the error of calls that must not begin.
func (e *engine) usable() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.deposed
}

// depose ends everything: another engine writes to the bucket. It is called by
// the committer.
func (e *engine) depose(err error) {
	e.mu.Lock()
	e.deposed = err
	e.mu.Unlock()
	st := e.loaded.Load()
	st.feed.End(nil, err)
	st.locks.End(nil)
}

// publish hands commits on that are durable.
func (st *state) publish(commits []*embedded.Commit) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.undos.note(commits)
	st.feed.Publish(commits...)
}

// known reports whether a token is of this file's past.
func (st *state) known(epoch string, rev backend.Revision) bool {
	st.genMu.Lock()
	defer st.genMu.Unlock()
	return known(st.generations, epoch, rev)
}

// spawn runs f in a goroutine that Close waits for. It reports false when it is
// too late for that.
func (e *engine) spawn(f func()) bool {
	if !e.enter() {
		return false
	}
	go func() {
		defer e.work.Done()
		f()
	}()
	return true
}

// enter begins work that Close waits for, until work.Done. It reports false
// when it is too late for that.
func (e *engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.over {
		e.work.Add(1)
	}
	return !e.over
}

// leave lets go of the engine for one store; the last one ends it.
func (e *engine) leave() error {
	e.mu.Lock()
	e.clients--
	last := e.clients == 0
	e.mu.Unlock()
	if !last {
		return nil
	}
	e.alarm.Close()
	if st := e.loaded.Load(); st != nil {
		st.feed.End(nil, backend.ErrClosed)
		st.locks.End(nil)
		st.locks.Wait()
	}
	e.mu.Lock()
	e.over = true
	e.mu.Unlock()
	e.views.close()
	close(e.commits.stop)
	e.work.Wait()
	if !e.owned {
		return nil
	}
	if err := e.db.Close(); err != nil {
		return classify(err)
	}
	return nil
}
