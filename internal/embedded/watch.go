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
	w.stop = context.AfterFunc(ctx, func() { w.end(backend.ContextError(ctx)) })
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

// nextExisting delivers the snapshot, and Synced at its end.
func (w *Watcher) nextExisting(ctx context.Context) (backend.Event, bool, error) {
	if len(w.existing) == 0 {
		page, err := w.s.Page(ctx, w.lastKey)
		if err != nil {
			if ctx.Err() != nil && w.ctx.Err() == nil {
				return backend.Event{}, false, err // of this call only
			}
			return backend.Event{}, false, w.end(err)
		}
		if len(page) == 0 {
			w.listing, w.existing = false, nil
			w.finish()
			return w.mark(backend.Synced, w.s.From), true, nil
		}
		w.existing = page
	}
	e := w.existing[0]
	w.existing[0] = backend.Entry{}
	w.existing = w.existing[1:]
	w.lastKey = e.Key
	if e.Revision > w.s.From {
		if w.listed == nil {
			w.listed = map[string]backend.Revision{}
		}
		w.listed[e.Key] = e.Revision
	}
	return backend.Event{Kind: backend.Existing, Entry: e}, true, nil
}

// finish tells the source that the snapshot is no longer read.
func (w *Watcher) finish() {
	if w.s.Done != nil {
		w.s.Done()
	}
}

// mark is an event without a key.
func (w *Watcher) mark(k backend.Kind, rev backend.Revision) backend.Event {
	return backend.Event{
		Kind:  k,
		Entry: backend.Entry{Revision: rev},
		Token: w.position(rev, "").Token(),
	}
}

func (w *Watcher) position(rev backend.Revision, extra string) backend.Position {
	return backend.Position{Store: w.s.Store, Epoch: w.s.Epoch, Scope: w.scope, Revision: rev, Extra: extra}
}

// take moves what comes next from the ring to the queue. It reports whether
// the ring has lost it, and otherwise, if there is nothing to deliver and a
// Progress is due, up to which revision.
func (w *Watcher) take() (behind, due bool, pos backend.Revision) {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.pos < f.floor {
		return true, false, 0
	}
	bytes := 0
	for _, c := range f.ring[f.after(w.pos):] {
		w.enqueue(c)
		w.pos = c.Revision
		if len(w.queue) > 0 {
			if bytes += c.Size(); bytes > chunkBytes || len(w.queue) >= chunkChanges {
				return false, false, 0
			}
		}
	}
	w.pos = f.last
	if len(w.queue) == 0 && w.sync {
		w.sync = false
		return false, true, w.pos
	}
	return false, false, 0
}

// takeFromLog does the same from the durable history, without the lock.
func (w *Watcher) takeFromLog(ctx context.Context) error {
	w.feed.mu.Lock()
	pos := w.pos
	w.feed.mu.Unlock()
	if w.s.Log == nil {
		return w.end(lost(pos))
	}
	commits, err := w.s.Log(ctx, pos)
	if err != nil {
		if ctx.Err() != nil && w.ctx.Err() == nil {
			return err
		}
		return w.end(err)
	}
	for _, c := range commits {
		w.enqueue(c)
		pos = c.Revision
	}
	w.feed.mu.Lock()
	w.pos = max(w.pos, pos)
	w.feed.mu.Unlock()
	return nil
}

// enqueue queues the changes of c that this watch covers.
func (w *Watcher) enqueue(c *Commit) {
	first := len(w.queue)
	for i := range c.Changes {
		key := c.Changes[i].Key
		if c.Revision == w.skip.rev && i < w.skip.index || !w.coversKey(key) || c.Revision <= w.listed[key] {
			continue
		}
		w.queue = append(w.queue, pending{&c.Changes[i], w.position(c.Revision, strconv.Itoa(i+1))})
	}
	if n := len(w.queue); n > first { // after the last one nothing is left to skip
		w.queue[n-1].token.Extra = ""
	}
}

func (w *Watcher) pop() backend.Event {
	p := w.queue[w.head]
	w.queue[w.head] = pending{}
	if w.head++; w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
	}
	ev := backend.Event{Kind: p.change.Kind, Entry: p.change.Entry(p.change.Key), Token: p.token.Token()}
	if ev.Kind == backend.Deleted {
		ev.Entry = backend.Entry{Key: p.change.Key, Revision: p.change.Revision}
	}
	ev.Value = clone(ev.Value)
	if w.s.Prev && p.change.Prev.Revision != 0 && !p.change.PrevLost {
		prev := p.change.Prev.Entry(p.change.Key)
		prev.Value = clone(prev.Value)
		ev.Prev = &prev
	}
	return ev
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
