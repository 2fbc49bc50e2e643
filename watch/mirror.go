package watch

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/polykv/kv"
)

// Change is one difference of a mirror. Old has Revision 0 for a key that is
// new, New has Revision 0 for one that is gone.
type Change[T any] struct {
	Key      string
	Old, New kv.Entry[T]
}

// Option configures a mirror or a value.
type Option interface{ set(options) options }

type options struct {
	prefix string
	bad    func(error)
}

type optionFunc func(options) options

func (f optionFunc) set(o options) options { return f(o) }

// OnBadValue has f called with each error that matches *codec.Error: the
// mirror keeps the last good value of that key. f runs on the mirror's
// goroutine.
func OnBadValue(f func(error)) Option {
	return optionFunc(func(o options) options { o.bad = f; return o })
}

// Prefix mirrors only what is below prefix in the source.
func Prefix(prefix string) Option {
	return optionFunc(func(o options) options { o.prefix = prefix; return o })
}

// Mirror is a replica in memory of what is below a prefix. It serves reads
// without I/O and follows the store: changes are applied in order, and history
// that was lost is repaired by differences, so that a mirror is never rebuilt
// and never empty for a moment. All methods are safe for concurrent use.
//
// It holds every value of the prefix, decoded.
type Mirror[T any] struct {
	w      *kv.Watch[T]
	cancel context.CancelFunc
	done   chan struct{}
	bad    func(error)

	mu        sync.RWMutex
	entries   *btree.BTreeG[kv.Entry[T]] // by key
	synced    bool
	revision  kv.Revision
	err       error
	handlers  map[int]func(Change[T])
	ids       int
	posted    []func() // for the goroutine, between events
	interrupt context.CancelFunc
}

// NewMirror opens a mirror of src and returns once it has the whole snapshot,
// which ctx bounds. Errors: those of Watch.
func NewMirror[T any](ctx context.Context, src Source[T], opts ...Option) (*Mirror[T], error) {
	var o options
	for _, opt := range opts {
		if opt != nil {
			o = opt.set(o)
		}
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	w, err := src.Watch(life, o.prefix, kv.FromSnapshot())
	m := &Mirror[T]{
		w: w, cancel: cancel, done: make(chan struct{}), bad: o.bad,
		entries:  btree.NewG(16, func(a, b kv.Entry[T]) bool { return a.Key < b.Key }),
		handlers: map[int]func(Change[T]){},
	}
	for err == nil && !m.synced {
		var ev kv.Event[T]
		ev, err = w.Next(life)
		err = m.take(ev, err)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		if w != nil {
			w.Close()
		}
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), context.Cause(ctx))
		}
		return nil, err
	}
	go m.run(life)
	return m, nil
}

// run applies events until the stream ends.
func (m *Mirror[T]) run(life context.Context) {
	defer close(m.done)
	defer m.w.Close()
	for {
		ctx, cancel := context.WithCancel(life)
		m.mu.Lock()
		m.interrupt = cancel
		posted := m.posted
		m.posted = nil
		m.mu.Unlock()
		for _, f := range posted {
			f()
		}
		err := m.follow(ctx)
		cancel()
		if err != nil && (ctx.Err() == nil || life.Err() != nil) {
			m.mu.Lock()
			if life.Err() != nil && !errors.Is(err, kv.ErrClosed) {
				err = kv.ErrClosed
			}
			m.err = err
			m.mu.Unlock()
			return
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
	if err != nil {
		if !bad(err) {
			return err
		}
		if m.bad != nil {
			m.bad(err)
		}
		m.mu.Lock()
		m.revision = max(m.revision, ev.Revision)
		m.mu.Unlock()
		return nil
	}
	m.mu.Lock()
	m.revision = max(m.revision, ev.Revision)
	c := Change[T]{Key: ev.Key}
	changed := false
	switch ev.Kind {
	case kv.Existing, kv.Created, kv.Updated:
		c.New = ev.Entry
		c.Old, _ = m.entries.ReplaceOrInsert(ev.Entry)
		changed = true
	case kv.Deleted:
		c.Old, changed = m.entries.Delete(kv.Entry[T]{Key: ev.Key})
	case kv.Synced:
		m.synced = true
	case kv.Resynced:
		m.synced = false
	}
	var handlers []func(Change[T])
	if changed && len(m.handlers) > 0 {
		handlers = make([]func(Change[T]), 0, len(m.handlers))
		for _, f := range m.handlers {
			handlers = append(handlers, f)
		}
	}
	m.mu.Unlock()
	for _, f := range handlers {
		f(c)
	}
	return nil
}

// Get returns the entry at key.
func (m *Mirror[T]) Get(key string) (kv.Entry[T], bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries.Get(kv.Entry[T]{Key: key})
}

// Len is how many entries there are.
func (m *Mirror[T]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries.Len()
}

// All yields the entries as they are now, in byte order of their keys. What
// changes during the loop does not show in it.
func (m *Mirror[T]) All() iter.Seq[kv.Entry[T]] { return m.Below("") }

// Below yields the entries strictly below prefix, as All does.
func (m *Mirror[T]) Below(prefix string) iter.Seq[kv.Entry[T]] {
	if prefix != "" {
		prefix += "/"
	}
	return func(yield func(kv.Entry[T]) bool) {
		m.mu.Lock() // of two Clones of a tree at a time neither is safe
		entries := m.entries.Clone()
		m.mu.Unlock()
		entries.AscendGreaterOrEqual(kv.Entry[T]{Key: prefix}, func(e kv.Entry[T]) bool {
			return strings.HasPrefix(e.Key, prefix) && yield(e)
		})
	}
}

// OnChange has f called for each entry that is there, as new, and then for each
// change, in order, on the mirror's goroutine: a slow f holds up the mirror,
// and one that waits for the mirror waits for ever. It returns at once. stop
// ends the calls; one may be under way while it returns.
func (m *Mirror[T]) OnChange(f func(Change[T])) (stop func()) {
	m.mu.Lock()
	m.ids++
	id := m.ids
	m.mu.Unlock()
	stopped := false // guarded by mu
	m.post(func() {
		for e := range m.All() {
			f(Change[T]{Key: e.Key, New: e})
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if !stopped {
			m.handlers[id] = f
		}
	})
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		stopped = true
		delete(m.handlers, id)
	}
}

// post has f run on the mirror's goroutine, between two events.
func (m *Mirror[T]) post(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.posted = append(m.posted, f)
	if m.interrupt != nil {
		m.interrupt()
	}
}

// Sync returns when the mirror has all writes that were complete when it was
// called: a read after it is as fresh as one of the store. It costs one
// request.
func (m *Mirror[T]) Sync(ctx context.Context) error { return m.w.Sync(ctx) }

// Wait returns when the mirror has the write whose revision is rev: read your
// own write. It costs no request if the mirror is there already.
func (m *Mirror[T]) Wait(ctx context.Context, rev kv.Revision) error {
	m.mu.RLock()
	// Only there a revision beyond rev says that rev was applied.
	there := m.synced && m.w.Lossless() && m.revision > rev
	m.mu.RUnlock()
	if there {
		return nil
	}
	return m.Sync(ctx)
}

// Status tells how stale the mirror may be.
type Status struct {
	Synced   bool        // false while differences are being worked out
	Revision kv.Revision // the highest that was applied
	kv.Health
}

// Status tells how the mirror is doing.
func (m *Mirror[T]) Status() Status {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Status{Synced: m.synced, Revision: m.revision, Health: m.w.Health()}
}

// Lag is how long the store has not been reachable: 0 while it is.
func (m *Mirror[T]) Lag() time.Duration {
	if since := m.w.Health().DisconnectedSince; !since.IsZero() {
		return time.Since(since)
	}
	return 0
}

// Done is closed when the mirror follows the store no longer: see Err. What it
// has can still be read.
func (m *Mirror[T]) Done() <-chan struct{} { return m.done }

// Err is nil while the mirror follows the store, and then why it stopped:
// kv.ErrClosed after Close of the mirror or the store, kv.ErrPermission.
func (m *Mirror[T]) Err() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.err
}

// Close ends the mirror and waits for its goroutine. It is idempotent, and not
// to be called by a handler.
func (m *Mirror[T]) Close() error {
	m.cancel()
	<-m.done
	return nil
}
