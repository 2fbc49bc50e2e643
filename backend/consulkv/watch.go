package consulkv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

const (
	// maxPace bounds the pause between two reads of a busy prefix.
	maxPace = 100 * time.Millisecond
	// readerPatience is how long a read is held open for a reader that has
	// not made room in the queue.
	readerPatience = time.Second
)

// watch is a backend.Watch. One goroutine runs a loop of reads of all that is
// watched, each held by the agent until something has changed, and compares
// the result with the last one.
type watch struct {
	s      *Store
	name   string // native name or prefix
	key    bool
	queue  *queue
	state  *state
	sorted sorter
	stream context.Context // of Watch: its end is the stream's error
	ctx    context.Context // ends with stream, with Close and with the Store
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the loop has ended

	held *heldRead     // the loop's
	hold time.Duration // the loop's: how long the next one is held

	syncs  atomic.Uint64 // calls of Sync
	nudge  chan struct{} // wakes the loop for them
	mu     sync.Mutex
	health backend.Health
}

// Watch implements backend.Store, with blocking queries. They have no bound on
// what they return, so a watch reads everything below prefix once for each
// change that it sees, values too: keep prefixes small, or changes rare. What
// it holds is the names, and the values only for WatchOptions.Prev.
//
// It makes one read before it returns and then holds one connection of the 200
// that the agent accepts from one address; the agent keeps it for up to 20 s
// after the watch was closed. While nothing changes it costs one request every
// 20 s. An expiry is an event by this client's clock, whoever
// reaps the entry.
//
// Errors: backend.ErrPermission, ErrUnavailable; errors.ErrUnsupported for
// Resume. Deletes have no revision: Consul does not tell.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if o.Resume != "" {
		return nil, fmt.Errorf("resuming a watch: %w", errors.ErrUnsupported)
	}
	native, err := s.prefix(prefix)
	if o.Key {
		native, err = s.name(prefix)
	}
	if err != nil {
		return nil, err
	}
	w := s.newWatch(ctx, native, o)
	resp, err := s.fetch(w.ctx, native, !o.Key, consistent, "")
	if err != nil {
		w.cancel(nil)
		return nil, err
	}
	phase := snapshotPhase
	var index uint64
	if !o.Snapshot {
		// Load what is there: the changes are told against it.
		index = resp.index
		_, err := w.state.compare(resp.body, quietPhase, nil)
		resp.close()
		if err != nil {
			w.cancel(nil)
			return nil, err
		}
		resp, phase = nil, changePhase
	}
	w.contact(nil)
	if !s.adopt(w) {
		err = backend.ErrClosed
	} else if !s.spawn(func() { w.run(resp, index, phase) }) {
		s.forget(w)
		err = backend.ErrClosed
	}
	if err != nil {
		if resp != nil {
			resp.close()
		}
		w.cancel(nil)
		return nil, err
	}
	return w, nil
}

func (s *Store) newWatch(ctx context.Context, native string, o backend.WatchOptions) *watch {
	w := &watch{
		s: s, name: native, key: o.Key, stream: ctx,
		queue: newQueue(s.o.WatchBuffer),
		done:  make(chan struct{}),
		nudge: make(chan struct{}, 1),
		hold:  minHold,
	}
	w.state = newState(s, o.Prev)
	w.sorted = sorter{limit: s.o.WatchBuffer / 2, push: w.pushSoon}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w
}

// Next implements backend.Watch.
func (w *watch) Next(ctx context.Context) (backend.Event, error) {
	for {
		if w.ctx.Err() != nil {
			return backend.Event{}, w.final()
		}
		if ev, ok, err := w.queue.pop(); ok || err != nil {
			return ev, err
		}
		select {
		case <-w.queue.ready:
		case <-w.ctx.Done():
		case <-ctx.Done():
			if w.ctx.Err() != nil {
				return backend.Event{}, w.final()
			}
			return backend.Event{}, backend.ContextError(ctx)
		}
	}
}

// final is the error of a stream that was ended from this side.
func (w *watch) final() error {
	if context.Cause(w.ctx) == backend.ErrClosed {
		return backend.ErrClosed
	}
	return backend.ContextError(w.ctx)
}

// Sync implements backend.Watch.
func (w *watch) Sync(ctx context.Context) error {
	if err := backend.ContextError(ctx); err != nil {
		return err
	}
	if w.ctx.Err() != nil {
		return w.final()
	}
	w.syncs.Add(1)
	signal(w.nudge)
	return nil
}

// Health implements backend.Watch.
func (w *watch) Health() backend.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}

// Close implements backend.Watch.
func (w *watch) Close() error {
	w.cancel(backend.ErrClosed)
	<-w.done
	return nil
}

func (w *watch) end(context.Context) { w.cancel(backend.ErrClosed) }

// contact notes that the server answered, or that it did not.
func (w *watch) contact(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		w.health = backend.Health{LastContact: now}
	case w.health.DisconnectedSince.IsZero():
		w.health.DisconnectedSince = now
	}
}

// run is the loop. resp is a read that was begun, or nil; index is where the
// state stands, or 0.
func (w *watch) run(resp *response, index uint64, phase phase) {
	defer close(w.done)
	defer w.s.forget(w)
	defer func() {
		w.cancel(nil)
		w.held.stop()
	}()
	var (
		wait     backoff.Backoff
		pace     time.Duration
		answered uint64 // calls of Sync that were answered
		resynced bool   // a Resynced was told, and not yet its Synced
		failed   bool
	)
	for {
		asked := w.syncs.Load()
		var err error
		switch {
		case resp != nil:
			asked = answered // by a read that began before they were made: not this one
		case index == 0 || asked != answered:
			resp, err = w.look()
		default:
			resp, err = w.poll(index)
			switch {
			case errors.Is(err, errNudged):
				continue
			case err == nil && resp.index < index:
				// A restored server, a new leader that has yet to catch up,
				// or deletes that were forgotten: look again, for certain.
				resp.close()
				resp, index = nil, 0
				continue
			}
		}
		began := time.Now()
		var changes int
		var reached uint64
		if err == nil {
			if failed && phase == changePhase && !resynced {
				resynced = w.push(backend.Event{Kind: backend.Resynced})
			}
			reached = resp.index
			if phase == snapshotPhase {
				changes, err = w.state.compare(resp.body, phase, w.pushSoon)
			} else {
				changes, err = w.state.compare(resp.body, phase, w.sorted.add)
			}
			resp.close()
			if !w.sorted.flush(w.push) { // what was noted must be told, also if the read broke off
				return
			}
		}
		resp = nil
		switch {
		case w.ctx.Err() != nil:
			return
		case errors.Is(err, errSlow):
			w.contact(nil)
			if !w.queue.drained(w.ctx) {
				return
			}
			index = 0
			continue
		case errors.Is(err, backend.ErrPermission), errors.Is(err, backend.ErrInvalid):
			w.queue.fail(err)
			<-w.ctx.Done() // what is in the queue is still to be read
			return
		case err != nil:
			w.contact(err)
			failed, index = true, 0
			if !wait.Wait(w.ctx) {
				return
			}
			continue
		}
		wait.Reset()
		w.contact(nil)
		failed = false
		if phase == snapshotPhase || resynced {
			if !w.push(backend.Event{Kind: backend.Synced}) {
				return
			}
			resynced = false
		}
		if asked != answered {
			answered = asked
			if !w.push(backend.Event{Kind: backend.Progress, Entry: backend.Entry{Revision: backend.Revision(reached)}}) {
				return
			}
		}
		switch {
		case phase == snapshotPhase && w.state.stale:
			index = 0 // the snapshot took several reads: tell what changed between them
		default:
			index = max(reached, 1) // a read at 0 would not be held
		}
		phase = changePhase

		// A read costs the agent what the prefix holds. Half of the time at
		// most goes into reading; and while the agent wakes for nothing (an
		// empty prefix does, at every write anywhere), ever less.
		if changes > 0 {
			pace = 0
		} else {
			pace = min(max(2*pace, time.Millisecond), maxPace)
		}
		if d := max(pace, min(time.Since(began), maxPace)); index != 0 && !w.sleep(d) {
			return
		}
	}
}

// sleep waits for d, and ends early for a Sync.
func (w *watch) sleep(d time.Duration) bool {
	if d < 2*time.Millisecond {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.nudge:
		signal(w.nudge)
	case <-w.ctx.Done():
		return false
	}
	return true
}

// errNudged says that the loop has to look at what it has to do.
var errNudged = errors.New("nothing was read")

// look makes a consistent read, at once. A read that is held meanwhile goes on.
func (w *watch) look() (*response, error) {
	select {
	case <-w.nudge: // this read answers it
	default:
	}
	resp, err := w.s.fetch(w.ctx, w.name, !w.key, consistent, "")
	if err == nil && w.held != nil {
		w.held.passed = true
	}
	return resp, err
}

// poll waits for a held read to be answered, and meanwhile tells of entries
// that expire.
func (w *watch) poll(index uint64) (*response, error) {
	if w.held == nil {
		w.held = w.s.holdRead(w.ctx, w.name, !w.key, index, w.hold)
		w.hold = min(2*w.hold, maxHold)
	}
	expiry := time.NewTimer(w.state.nextExpiry())
	defer expiry.Stop()
	for {
		select {
		case r := <-w.held.got:
			passed := w.held.passed
			w.held = nil
			if r.err == nil && passed && r.resp.index <= index {
				r.resp.close() // older than what is known
				return nil, errNudged
			}
			return r.resp, r.err
		case <-w.nudge:
			return nil, errNudged
		case <-expiry.C:
			if !w.state.expire(w.push) {
				return nil, backend.ContextError(w.ctx)
			}
			expiry.Reset(w.state.nextExpiry())
		case <-w.ctx.Done():
			return nil, backend.ContextError(w.ctx)
		}
	}
}

// push waits for room in the queue for as long as it takes.
func (w *watch) push(ev backend.Event) bool { return w.queue.push(w.ctx, ev, 0) }

// errSlow says that the reader made no room while a read was held open.
var errSlow = errors.New("the reader is slow")

func (w *watch) pushSoon(ev backend.Event, _ uint64) error {
	if w.queue.push(w.ctx, ev, readerPatience) {
		return nil
	}
	if err := backend.ContextError(w.ctx); err != nil {
		return err
	}
	return errSlow
}
