package embedded

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// Stream says what a watcher delivers.
type Stream struct {
	Session            <-chan struct{} // whose it is; closed to end it with ErrClosed
	Store, Epoch, Root string          // bind its tokens
	Prefix             string          // or, with Key, the key
	// Known, if not nil, reports whether a token of an epoch other than Epoch
	// is of this store's past, too.
	Known func(epoch string, rev backend.Revision) bool
	backend.WatchOptions

	// From is the revision after which the stream begins. With Snapshot it
	// is the one of the snapshot. It is not used with Resume.
	From backend.Revision
	// Page returns the entries of the snapshot that follow the key after, in
	// order, and an empty slice at the end.
	Page func(ctx context.Context, after string) ([]backend.Entry, error)
	// Done, if not nil, is called when the snapshot needs no more pages: once
	// or twice, and perhaps beside the last Page.
	Done func()
	// Log, if not nil, reads commits from a durable history, for a watcher
	// that the ring cannot serve. It returns some of those above rev, and
	// ErrHistoryLost if they are gone.
	Log func(ctx context.Context, rev backend.Revision) ([]*Commit, error)
}

// Watcher is a backend.Watch over a Feed. It has no goroutine of its own: Next
// takes from the ring what it has to deliver.
type Watcher struct {
	feed  *Feed
	s     Stream
	scope backend.Scope
	ctx   context.Context
	stop  func() bool
	wake  chan struct{} // holds one token when there may be something new

	// Guarded by feed.mu.
	pos  backend.Revision // everything up to it is in queue or delivered
	sync bool             // a Progress event is due

	once  sync.Once
	ended chan struct{}
	err   error // set before ended is closed

	// Of the goroutine in Next.
	existing []backend.Entry
	listed   map[string]backend.Revision // of entries that were adopted while they were listed
	listing  bool
	lastKey  string
	queue    []pending
	head     int // of queue
	skip     resumed
}

// pending is one change on its way to the reader.
type pending struct {
	change *Change
	token  backend.Position
}

// resumed is a point within a commit: the changes before it were delivered by
// the watch that is resumed.
type resumed struct {
	rev   backend.Revision
	index int
}

// chunk bounds what a watcher takes from the ring at once, in changes and in
// bytes; a commit is never parted.
const (
	chunkChanges = 256
	chunkBytes   = 256 << 10
)

// Watch opens a stream. ctx ends it. The caller makes sure that nothing is
// published between the time at which s.From was right and this call. With
// Resume, it fails with ErrInvalid or ErrHistoryLost.
func (f *Feed) Watch(ctx context.Context, s Stream) (*Watcher, error) {
	w := &Watcher{
		feed: f, s: s, ctx: ctx, pos: s.From, listing: s.Snapshot,
		scope: backend.ScopeOf(s.Root, s.Prefix, s.Key),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}
	if s.Resume != "" {
		if err := w.resume(); err != nil {
			return nil, err
		}
	}
	f.mu.Lock() // end takes it before it looks at stop
	w.stop = context.AfterFunc(ctx, func() { w.end(backend.ContextError(ctx)) })
	f.mu.Unlock()
	if err := w.register(); err != nil {
		return nil, w.end(err)
	}
	if s.Resume != "" { // refuse now what could only fail later
		if err := w.probe(); err != nil {
			return nil, w.end(err)
		}
	}
	return w, nil
}

// register makes the feed keep w's position, from which on nothing is missed.
func (w *Watcher) register() error {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-w.ended:
		return w.err
	default:
	}
	if isClosed(w.s.Session) {
		return backend.ErrClosed
	}
	if w.s.Resume != "" && w.pos > f.last {
		return fmt.Errorf("%w: resume token is ahead of the store", backend.ErrHistoryLost)
	}
	f.watchers[w] = struct{}{}
	return nil
}

func lost(rev backend.Revision) error {
	return fmt.Errorf("%w: what followed revision %d is no longer kept", backend.ErrHistoryLost, rev)
}

// resume takes the position out of the token.
func (w *Watcher) resume() error {
	p, err := backend.ParseToken(w.s.Resume, w.s.Store, w.scope)
	if err != nil {
		return err
	}
	if p.Epoch != w.s.Epoch && (w.s.Known == nil || !w.s.Known(p.Epoch, p.Revision)) {
		return fmt.Errorf("%w: resume token is of another epoch of the store", backend.ErrHistoryLost)
	}
	w.pos = p.Revision
	if p.Extra != "" { // within a commit: begin before it and skip
		n, err := strconv.Atoi(p.Extra)
		if err != nil || n <= 0 || p.Revision == 0 {
			return fmt.Errorf("%w: malformed resume token", backend.ErrInvalid)
		}
		w.skip = resumed{p.Revision, n}
		w.pos--
	}
	return nil
}

// probe asks the log for what follows a resume point that the ring has lost.
func (w *Watcher) probe() error {
	w.feed.mu.Lock()
	pos, behind := w.pos, w.pos < w.feed.floor
	w.feed.mu.Unlock()
	if !behind {
		return nil
	}
	if w.s.Log == nil {
		return lost(pos)
	}
	_, err := w.s.Log(w.ctx, pos)
	return err
}

func (w *Watcher) covers(c *Commit) bool {
	for i := range c.Changes {
		if w.coversKey(c.Changes[i].Key) {
			return true
		}
	}
	return false
}

func (w *Watcher) coversKey(key string) bool {
	p := w.s.Prefix
	if w.s.Key {
		return key == p
	}
	return p == "" || len(key) > len(p) && key[len(p)] == '/' && strings.HasPrefix(key, p)
}

func (w *Watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next implements backend.Watch.
func (w *Watcher) Next(ctx context.Context) (backend.Event, error) {
	for {
		select {
		case <-w.ended:
			return backend.Event{}, w.err
		default:
		}
		if err := backend.ContextError(w.ctx); err != nil {
			return backend.Event{}, w.end(err)
		}
		if err := backend.ContextError(ctx); err != nil {
			return backend.Event{}, err
		}
		if w.listing {
			ev, ok, err := w.nextExisting(ctx)
			if err != nil || ok {
				return ev, err
			}
			continue
		}
		if w.head < len(w.queue) {
			return w.pop(), nil
		}
		behind, due, pos := w.take()
		switch {
		case behind:
			if err := w.takeFromLog(ctx); err != nil {
				return backend.Event{}, err
			}
		case len(w.queue) > 0:
		case due: // perhaps at revision 0, of a store that nobody wrote to
			return w.mark(backend.Progress, pos), nil
		default:
			select {
			case <-w.wake:
			case <-w.ended:
			case <-w.ctx.Done():
			case <-ctx.Done():
			}
		}
	}
}

// Sync implements backend.Watch.
func (w *Watcher) Sync(ctx context.Context) error {
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	select {
	case <-w.ended:
		return w.err
	default:
	}
	w.sync = true
	w.wakeUp()
	return nil
}

// Health implements backend.Watch: the store is in this process.
func (w *Watcher) Health() backend.Health { return backend.Health{LastContact: time.Now()} }

// Close implements backend.Watch.
func (w *Watcher) Close() error {
	w.end(backend.ErrClosed)
	return nil
}

// end ends the stream for good, and returns why it ended first.
func (w *Watcher) end(err error) error {
	w.once.Do(func() {
		w.feed.mu.Lock()
		delete(w.feed.watchers, w)
		w.err = err
		close(w.ended)
		w.feed.mu.Unlock()
		w.stop()
		w.finish()
	})
	return w.err
}
