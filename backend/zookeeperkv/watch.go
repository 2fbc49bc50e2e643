package zookeeperkv

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// Watch implements backend.Store. ZooKeeper tells once that a node has changed, not how: so there are two watches for every
// node below prefix, set in the same step as the node is read, and what has fired is read again. Changes of one key that
// come faster than that are merged.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	dir, err := s.dir(prefix)
	if err != nil {
		return nil, err
	}
	if o.Resume != "" {
		return nil, errors.ErrUnsupported
	}
	if ctx.Err() != nil {
		return nil, backend.ContextError(ctx)
	}
	w := &watch{
		s: s, l: s.link, o: o, prefix: prefix, dir: dir, parent: ctx,
		dirty: map[string]bits{}, first: map[string]bits{}, nodes: map[string]*known{}, expiring: map[string]int64{},
		wake: make(chan struct{}, 1), ready: make(chan struct{}, 1), done: make(chan struct{}),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	if err := s.adopt(w); err != nil {
		w.cancel()
		return nil, err
	}
	established := make(chan error, 1)
	go w.run(established)
	if err := <-established; err != nil {
		w.Close()
		if closed := s.usable(); closed != nil {
			return nil, closed
		}
		return nil, err
	}
	s.reaper.start()
	return w, nil
}

// watch is an open stream. Its goroutine reads nodes and makes events; Next takes them.
type watch struct {
	s      *Store
	l      *link
	o      backend.WatchOptions
	prefix string
	dir    string // the node of prefix
	parent context.Context
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine is gone

	// Of the goroutine:
	nodes    map[string]*known
	expiring map[string]int64 // when keys expire, in Unix milliseconds
	pending  []string         // keys of the snapshot that did not fit into the buffer
	epoch    uint64           // the connection that the watches were set on
	resync   bool             // between Resynced and Synced
	light    map[string]bool  // nodes of which only a change is of interest

	mu       sync.Mutex
	dirty    map[string]bits // nodes to be read
	first    map[string]bits // nodes to be read before the next Progress or Synced, and before those in dirty
	caught   bool            // so are those that are being read, and what is found below them
	progress bool
	reached  int64 // the state that the next Progress is no older than
	queue    []backend.Event
	bytes    int
	err      error // final
	shutdown bool  // by the store or Close, not by ctx

	wake  chan struct{} // the goroutine has something to do
	ready chan struct{} // Next has
}

// Next implements backend.Watch.
func (w *watch) Next(ctx context.Context) (backend.Event, error) {
	for {
		w.mu.Lock()
		if w.shutdown {
			w.mu.Unlock()
			return backend.Event{}, backend.ErrClosed
		}
		if len(w.queue) > 0 && w.parent.Err() == nil {
			e := w.queue[0]
			w.queue[0] = backend.Event{}
			w.queue = w.queue[1:]
			full := w.bytes >= w.s.o.WatchBuffer
			w.bytes -= eventSize(e)
			w.mu.Unlock()
			if full {
				signal(w.wake)
			}
			return e, nil
		}
		err := w.err
		w.mu.Unlock()
		if err != nil {
			return backend.Event{}, err
		}
		select {
		case <-w.ready:
		case <-w.done:
			if w.finalError() == nil {
				w.fail(nil)
			}
		case <-w.parent.Done():
			w.fail(nil)
		case <-ctx.Done():
			return backend.Event{}, backend.ContextError(ctx)
		}
	}
}

func (w *watch) finalError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fail ends the stream with err; nil stands for whatever has ended the context.
func (w *watch) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		switch {
		case w.shutdown:
			err = backend.ErrClosed
		case w.parent.Err() != nil:
			err = backend.ContextError(w.parent)
		case err == nil:
			err = backend.ErrClosed
		}
		w.err = err
	}
	w.mu.Unlock()
	signal(w.ready)
}

// Sync implements backend.Watch. What was written before is behind a sync in the events of this connection, so once
// that is answered the nodes concerned are marked.
func (w *watch) Sync(ctx context.Context) error {
	if err := w.finalError(); err != nil {
		return err
	}
	if err := w.l.sync(ctx, w.s.root).wait(ctx, true); err != nil {
		return err
	}
	reached := w.l.zxid() // of it, too, all that came before is marked, or is when we have caught up
	w.l.hub.catchUp()
	w.mu.Lock()
	w.hasten()
	w.progress, w.reached = true, reached
	w.mu.Unlock()
	signal(w.wake)
	return nil
}

// Health implements backend.Watch.
func (w *watch) Health() backend.Health {
	heard, down := w.l.session.health()
	return backend.Health{LastContact: heard, DisconnectedSince: down}
}

// Close implements backend.Watch.
func (w *watch) Close() error {
	w.mu.Lock()
	if w.parent.Err() == nil {
		w.shutdown = true
	}
	w.mu.Unlock()
	w.cancel()
	<-w.done
	w.fail(nil)
	return nil
}

func (w *watch) shut() { w.Close() }

// fire marks a node. The hub calls it, from the client's goroutine.
func (w *watch) fire(path string, b bits) {
	w.mu.Lock()
	w.mark(path, b, false)
	w.mu.Unlock()
	signal(w.wake)
}

// mark notes that a node is to be read; first: before the next Progress or Synced. w.mu is held.
func (w *watch) mark(path string, b bits, first bool) {
	old, found := w.first[path]
	if first || found {
		w.first[path] = old | w.dirty[path] | b
		delete(w.dirty, path)
		return
	}
	w.dirty[path] |= b
}

// hasten puts all that is to be read now before what comes later, which may come without end. w.mu is held.
func (w *watch) hasten() {
	for path, b := range w.dirty {
		w.first[path] |= b
	}
	clear(w.dirty)
	w.caught = true
}

func (w *watch) push(e backend.Event) {
	w.mu.Lock()
	w.queue = append(w.queue, e)
	w.bytes += eventSize(e)
	w.mu.Unlock()
	signal(w.ready)
}

func (w *watch) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes >= w.s.o.WatchBuffer
}

// eventSize is what a waiting event takes, in bytes.
func eventSize(e backend.Event) int {
	n := 128 + len(e.Key) + len(e.Value)
	if e.Prev != nil {
		n += len(e.Prev.Value)
	}
	return n
}

// signal makes sure that a receive on ch succeeds.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// nextExpiry is when the next key expires for everybody, and false if none does.
func (w *watch) nextExpiry() (time.Time, bool) {
	if len(w.expiring) == 0 {
		return time.Time{}, false
	}
	var first int64
	for _, at := range w.expiring {
		if first == 0 || at < first {
			first = at
		}
	}
	return time.UnixMilli(first).Add(w.s.o.ClockSkew + time.Millisecond), true
}
