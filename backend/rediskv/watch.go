package rediskv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// watch reads the log from where it is. It has no goroutine: Next reads, when the tail has told that there is something.
type watch struct {
	s      *Store
	prefix string
	o      backend.WatchOptions
	scope  backend.Scope
	epoch  string
	match  string // what the keys of the log have to begin with, or to be
	wake   chan struct{}
	life   context.Context // of the stream
	end    context.CancelFunc
	gone   chan struct{} // closed when nothing is left behind the stream

	// For Next alone.
	queue    []backend.Event
	snapshot *snapshot // nil once it is delivered, and without one
	folded   map[string]id
	wait     backoff.Backoff

	mu     sync.Mutex
	pos    id    // everything up to it was read
	synced bool  // Sync wants an answer
	err    error // final
}

// Watch implements backend.Store. It is one round trip.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if err := backend.ContextError(ctx); err != nil {
		return nil, err
	}
	if o.Key {
		if err := s.checkKey(prefix); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	w := &watch{
		s: s, prefix: prefix, o: o, scope: backend.ScopeOf(s.names.space.Root(), prefix, o.Key),
		match: prefix, wake: make(chan struct{}, 1),
	}
	if !o.Key && prefix != "" {
		w.match += "/"
	}
	if o.Snapshot {
		if err := s.overlook(ctx); err != nil {
			return nil, err
		}
	}
	if o.Resume != "" {
		p, err := backend.ParseToken(o.Resume, s.caps.Name, w.scope)
		if err != nil {
			return nil, err
		}
		seq, err := strconv.ParseUint(p.Extra, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: malformed resume token", backend.ErrInvalid)
		}
		w.epoch, w.pos = p.Epoch, id{uint64(p.Revision), seq}
		part, err := s.readLog(ctx, w.epoch, w.pos, w.match, o.Key, o.Prev)
		if err != nil {
			return nil, err
		}
		w.take(part)
	} else {
		pg, err := s.page(ctx, nil, true)
		if err != nil {
			return nil, err
		}
		w.epoch, w.pos = pg.epoch, pg.log
		if o.Snapshot {
			w.snapshot = newSnapshot(w, pg.log)
		}
	}
	if err := w.begin(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

// begin ties what is behind the stream to ctx and to the Store: it is released when either ends, and by Close.
func (w *watch) begin(ctx context.Context) error {
	if !w.s.enter() {
		return backend.ErrClosed
	}
	if err := w.s.tail.listen(w); err != nil {
		w.s.calls.Done()
		return err
	}
	w.life, w.end = context.WithCancel(ctx)
	w.gone = make(chan struct{})
	unhook := context.AfterFunc(w.s.life, func() { w.fail(backend.ErrClosed) })
	context.AfterFunc(w.life, func() {
		defer w.s.calls.Done()
		unhook()
		w.s.tail.leave(w)
		close(w.gone)
	})
	return nil
}

// fail ends the stream with err, unless it has ended.
func (w *watch) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
		if ended := backend.ContextError(w.life); ended != nil {
			w.err = ended
		}
	}
	w.mu.Unlock()
	w.end()
}

// ended is why the stream is over, if it is.
func (w *watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = backend.ContextError(w.life)
	}
	return w.err
}

// heard implements listener. A message about other keys, next in the log, moves the watch on without any I/O.
func (w *watch) heard(m message) {
	if m.before == m.after {
		return // a lease was renewed
	}
	if m.keys != nil && !w.concerns(m.keys) {
		at, ok := parseID(m.after)
		w.mu.Lock()
		skip := ok && m.before == w.pos.String()
		if skip {
			w.pos = at
		}
		w.mu.Unlock()
		if skip {
			return
		}
	}
	w.nudge()
}

func (w *watch) concerns(keys []string) bool {
	for _, k := range keys {
		if w.o.Key && k == w.match || !w.o.Key && strings.HasPrefix(k, w.match) {
			return true
		}
	}
	return false
}

// nudge implements listener.
func (w *watch) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next implements backend.Watch.
func (w *watch) Next(ctx context.Context) (backend.Event, error) {
	for {
		if err := w.ended(); err != nil {
			w.queue, w.snapshot = nil, nil
			return backend.Event{}, err
		}
		if err := backend.ContextError(ctx); err != nil {
			return backend.Event{}, err
		}
		if len(w.queue) > 0 {
			ev := w.queue[0]
			w.queue[0] = backend.Event{}
			w.queue = w.queue[1:]
			return ev, nil
		}
		w.fill(ctx)
	}
}

// fill gets more events, or waits for a reason to look again. What goes wrong and is not final is tried again.
func (w *watch) fill(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.life, cancel)()

	var err error
	var more bool
	if w.snapshot != nil {
		more, err = true, w.snapshot.fill(ctx)
	} else {
		more, err = w.follow(ctx)
	}
	switch {
	case err == nil:
		w.s.tail.connected(true)
		w.wait.Reset()
		if more || len(w.queue) > 0 {
			return
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	case ctx.Err() != nil:
	case errors.Is(err, backend.ErrUnavailable):
		w.s.tail.connected(false)
		w.wait.Wait(ctx)
	default:
		w.fail(err)
	}
}

// follow reads the log, and reports whether there was more than it took.
func (w *watch) follow(ctx context.Context) (more bool, err error) {
	w.mu.Lock()
	from, synced := w.pos, w.synced
	w.synced = false
	w.mu.Unlock()
	part, err := w.s.readLog(ctx, w.epoch, from, w.match, w.o.Key, w.o.Prev)
	if err != nil {
		w.mu.Lock()
		w.synced = w.synced || synced
		w.mu.Unlock()
		return false, err
	}
	at := w.take(part)
	more = part.end.after(at)
	if synced {
		if more {
			w.mu.Lock()
			w.synced = true
			w.mu.Unlock()
		} else {
			w.queue = append(w.queue, w.marker(backend.Progress, at))
		}
	}
	return more, nil
}

// take queues the events of part, and returns where the watch is then.
func (w *watch) take(part logPart) id {
	for _, c := range part.changes {
		if upto, ok := w.folded[c.entry.Key]; ok && !c.id.after(upto) {
			continue // the snapshot had it
		}
		w.queue = append(w.queue, w.event(c))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if part.at.after(w.pos) { // else a message has moved it on
		w.pos = part.at
	}
	return w.pos
}

func (w *watch) event(c change) backend.Event {
	ev := backend.Event{Kind: c.kind, Entry: c.entry, Token: w.token(c.id)}
	if w.o.Prev {
		ev.Prev = c.prev
	}
	return ev
}

func (w *watch) marker(kind backend.Kind, at id) backend.Event {
	return backend.Event{Kind: kind, Entry: backend.Entry{Revision: backend.Revision(at.rev)}, Token: w.token(at)}
}

func (w *watch) token(at id) backend.Token {
	return backend.Position{
		Store: w.s.caps.Name, Epoch: w.epoch, Scope: w.scope, Revision: backend.Revision(at.rev),
		Extra: strconv.FormatUint(at.seq, 10),
	}.Token()
}

// Sync implements backend.Watch.
func (w *watch) Sync(ctx context.Context) error {
	if err := w.ended(); err != nil {
		return err
	}
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	w.synced = true
	w.mu.Unlock()
	w.nudge()
	return nil
}

// Health implements backend.Watch.
func (w *watch) Health() backend.Health { return w.s.tail.health() }

// Close implements backend.Watch.
func (w *watch) Close() error {
	w.fail(backend.ErrClosed)
	<-w.gone
	return nil
}
