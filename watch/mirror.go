package watch

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
)

// Change is one difference of a mirror. Old has Revision 0 for a key that is
// new, New has Revision 0 for one that is gone.
type Change[T any] struct {
	Key      string
	Old, New kv.Entry[T]
}

// Option configures a mirror or a value.
type Option interface{ set(options) options }

type options struct{ bad func(error) }

type optionFunc func(options) options

func (f optionFunc) set(o options) options { return f(o) }

// OnBadValue has f called with each error that matches *codec.Error: the
// mirror keeps the last good value of that key. f runs on the mirror's
// goroutine, and on the caller's for what NewMirror finds.
func OnBadValue(f func(error)) Option {
	return optionFunc(func(o options) options { o.bad = f; return o })
}

// Mirror is a replica in memory of all that a store or a typed view has; for a
// part of it there is Sub. It serves reads
// without I/O and follows the store: changes are applied in order, and history
// that was lost is repaired by differences, so that a mirror is never rebuilt
// and never empty for a moment. All methods are safe for concurrent use.
//
// It holds every value, decoded. What a value points to is shared by all who
// read it and must not be changed.
type Mirror[T any] struct {
	w       *kv.Watch[T]
	cancel  context.CancelFunc
	done    chan struct{}
	bad     func(error)
	closing atomic.Bool
	rounds  rounds

	mu        sync.RWMutex
	entries   *tree[T]
	clone     *tree[T] // of entries as they are; nil: none was taken yet
	feed      feed[T]
	synced    bool
	revision  kv.Revision // the highest that was applied
	repaired  bool        // the next one may be lower: the store may have been restored
	whole     kv.Revision // all writes below it were applied; 0: not known
	err       error
	handlers  []*handler[T] // replaced, never changed: take reads it without the lock
	posted    []func()      // for the goroutine, between events
	interrupt context.CancelFunc
	ended     bool // the goroutine takes nothing from posted any more
}

// NewMirror opens a mirror of src and returns once it has the whole snapshot,
// which ctx bounds. Errors: those of Watch.
func NewMirror[T any](ctx context.Context, src Source[T], opts ...Option) (*Mirror[T], error) {
	contexts.Require(ctx)
	var o options
	for _, opt := range opts {
		if opt != nil {
			o = opt.set(o)
		}
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	w, err := src.Watch(life, "", kv.FromSnapshot())
	m := &Mirror[T]{
		w: w, cancel: cancel, done: make(chan struct{}), bad: o.bad,
		entries: newTree[T](),
	}
	for err == nil && !m.synced {
		var ev kv.Event[T]
		ev, err = w.Next(life)
		err = m.take(ev, err)
	}
	if err = opened(ctx, stop, err); err != nil {
		cancel()
		if w != nil {
			w.Close()
		}
		return nil, err
	}
	go m.run()
	return m, nil
}

// opened is the error of an opening that ctx bounds, and whose stream's life
// the end of ctx cancels until stop is called.
func opened(ctx context.Context, stop func() bool, err error) error {
	if stop() && err == nil {
		return nil
	}
	if ended := backend.ContextError(ctx); ended != nil {
		return backend.Because(ended, err)
	}
	return err
}

// run applies events until the stream ends.
func (m *Mirror[T]) run() {
	defer m.rounds.end() // who wakes looks whether it is done
	defer close(m.done)
	defer m.w.Close()
	for {
		ctx, cancel := context.WithCancel(context.Background())
		m.mu.Lock()
		m.interrupt = cancel
		posted := m.posted
		m.posted = nil
		m.mu.Unlock()
		for _, f := range posted {
			f()
		}
		err := m.follow(ctx)
		interrupted := ctx.Err() != nil
		cancel()
		if interrupted {
			continue // an error that is final comes again
		}
		if m.closing.Load() {
			err = nil
		}
		m.end(err)
		return
	}
}

// end says why, and does what was posted meanwhile.
func (m *Mirror[T]) end(err error) {
	for {
		m.mu.Lock()
		posted := m.posted
		m.posted = nil
		if len(posted) == 0 {
			m.err, m.ended = err, true
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		for _, f := range posted {
			f()
		}
	}
}

func (m *Mirror[T]) follow(ctx context.Context) error {
	for {
		ev, err := m.w.Next(ctx)
		if err = m.take(ev, err); err != nil {
			return err
		}
	}
}

// take applies one event. A value that does not decode is not an error of the
// stream.
func (m *Mirror[T]) take(ev kv.Event[T], err error) error {
	if err != nil && !bad(err) {
		return err
	}
	if err != nil && m.bad != nil {
		m.bad(err)
	}
	m.mu.Lock()
	m.advance(ev)
	c := Change[T]{Key: ev.Key}
	changed := false
	switch {
	case err != nil:
	case ev.Kind == kv.Deleted:
		c.Old, changed = m.entries.Delete(kv.Entry[T]{Key: ev.Key})
	case ev.Key != "":
		c.New, changed = ev.Entry, true
		c.Old, _ = m.entries.ReplaceOrInsert(ev.Entry)
	}
	if changed {
		m.clone = nil
		m.feed.add(c, m.entries)
	}
	subs, most := m.feed.subs, m.feed.least/2
	handlers := m.handlers
	m.mu.Unlock()
	if changed {
		m.rounds.changed(subs, most)
		for _, h := range handlers {
			if !h.stopped.Load() {
				h.f(c)
			}
		}
	}
	return nil
}

// advance notes how far ev brings the mirror. What is listed, at the start and
// after a loss of history, is in the order of keys, and on a store without
// snapshots an entry says nothing of those with lower revisions. mu is held.
func (m *Mirror[T]) advance(ev kv.Event[T]) {
	switch ev.Kind {
	case kv.Resynced:
		m.synced, m.repaired, m.whole = false, true, 0
	case kv.Synced:
		m.synced, m.whole = true, ev.Revision
	case kv.Created, kv.Updated, kv.Deleted:
		if m.synced {
			m.whole = max(m.whole, ev.Revision)
		}
	}
	switch {
	case ev.Revision == 0: // of a repair, which need not tell
	case m.repaired:
		m.revision, m.repaired = ev.Revision, false
	default:
		m.revision = max(m.revision, ev.Revision)
	}
}

// Done is closed when the mirror follows the store no longer and no handler
// runs: see Err. What it has can still be read. The store's Close does not wait
// for that, and so may be called by a handler.
func (m *Mirror[T]) Done() <-chan struct{} { return m.done }

// Err is nil while the mirror follows the store and after Close, and otherwise
// why it stopped: kv.ErrClosed when the store was closed, kv.ErrPermission.
func (m *Mirror[T]) Err() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.err
}

// Close ends the mirror and waits for its goroutine: once it has returned, no
// function that OnChange, OnBadValue or an index was given runs or will, save
// for what OnChange then does on its caller's goroutine. It is idempotent, and
// not to be called by such a function, which it would wait for: that does
// `go m.Close()`.
func (m *Mirror[T]) Close() error {
	m.closing.Store(true)
	m.w.Close()
	<-m.done
	m.cancel()
	return nil
}
