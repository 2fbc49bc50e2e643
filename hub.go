package kv

import (
	"context"
	"errors"
	"sync"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// hubKey says what an upstream covers. Watches that agree in it share one.
type hubKey struct {
	name string // full key or prefix
	key  bool
	prev bool
}

// hub is one upstream watch and the subscriptions that share it (R25). Its
// goroutine pulls events and puts them into the subscriptions' queues; it
// never waits for a reader.
type hub struct {
	c      *core
	key    hubKey
	ctx    context.Context // of the upstream
	cancel context.CancelFunc

	ready   chan struct{} // closed once up or openErr is set
	openErr error
	exited  chan struct{} // closed when pump has returned

	lossless bool

	mu      sync.Mutex
	up      backend.Watch
	refs    int // subscriptions, those that are still opening included
	subs    map[*subscription]struct{}
	err     error    // the upstream has ended
	last    Revision // the highest that was handed on
	whole   Revision // up to which everything was handed on; a transaction's events share one revision
	placed  bool     // last is known
	syncing bool     // a request for progress is under way, or the upstream under repair
	asked   []mark   // it will answer these
	waiting []mark   // the next one will
	// table has the revision of each key as of last, while a watch
	// FromSnapshot of a Lossless store needs it for repair: see repair.
	table map[string]version
	// mended is set from the begin of a repair until the first answer of the
	// new upstream: what that tells before, the repair may have listed, and
	// last does not say from where on it tells everything.
	mended    bool
	floor     Revision // up to here everything is in what the repair has listed, if that is one state
	repairing bool     // until the differences are told: nobody reads beside that
}

// mark is a place in a subscription's queue that a Sync asked for.
type mark struct {
	sub *subscription
	id  uint64
}

// version is what is known of a key without its value.
type version struct{ rev, created Revision }

// acquire returns the hub for key with one reference taken, established: every
// write that starts from now on makes an event. fresh says that it was opened
// for this call. ctx bounds the call only.
func (c *core) acquire(ctx context.Context, key hubKey) (h *hub, fresh bool, err error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, false, ErrClosed
		}
		h := c.hubs[key]
		if h == nil {
			h = &hub{c: c, key: key, ready: make(chan struct{}), exited: make(chan struct{}), refs: 1, subs: map[*subscription]struct{}{}}
			h.lossless = c.b.Capabilities().Lossless
			h.ctx, h.cancel = context.WithCancel(c.ctx)
			c.hubs[key] = h
			c.mu.Unlock()
			return h, true, h.open(ctx)
		}
		h.mu.Lock()
		h.refs++
		h.mu.Unlock()
		c.mu.Unlock()
		select {
		case <-h.ready:
		case <-ctx.Done():
			h.release()
			return nil, false, contextError(ctx)
		}
		if h.openErr == nil {
			return h, false, nil
		}
		// The one that opened it failed, perhaps because its own context
		// ended: try for ourselves.
		h.release()
	}
}

// open establishes the upstream and starts the goroutine.
func (h *hub) open(ctx context.Context) error {
	defer close(h.ready)
	// The upstream outlives this call's context, but its opening does not.
	stop := context.AfterFunc(ctx, h.cancel)
	up, err := h.c.b.Watch(h.ctx, h.key.name, backend.WatchOptions{Key: h.key.key, Prev: h.key.prev})
	if !stop() && err == nil {
		up.Close()
		err = contextError(ctx)
	}
	if err == nil {
		h.mu.Lock()
		h.up = up
		h.mu.Unlock()
		if h.c.spawn(h.pump) {
			return nil
		}
		up.Close()
		err = ErrClosed
	}
	if ctx.Err() != nil {
		err = backend.Because(contextError(ctx), err)
	}
	h.mu.Lock()
	h.openErr = err
	h.mu.Unlock()
	h.release()
	return err
}

// release gives one reference back; the last one ends the upstream, which it
// reports.
func (h *hub) release() (last bool) {
	h.c.mu.Lock()
	h.mu.Lock()
	h.refs--
	last = h.refs == 0
	if (last || h.openErr != nil || h.err != nil) && h.c.hubs[h.key] == h {
		delete(h.c.hubs, h.key)
	}
	h.mu.Unlock()
	h.c.mu.Unlock()
	if last {
		h.cancel()
	}
	return last
}

// pump hands on events until the upstream ends for good.
func (h *hub) pump() {
	defer func() {
		h.upstream().Close()
		h.cancel()
		close(h.exited)
	}()
	for {
		ev, err := h.upstream().Next(h.ctx)
		if err == nil {
			h.dispatch(ev)
			continue
		}
		// A store that is not Lossless lists again by itself (package backend).
		if h.lossless && errors.Is(err, ErrHistoryLost) && h.ctx.Err() == nil {
			if err = h.repair(err); err == nil {
				continue
			}
		}
		if h.ctx.Err() != nil {
			err = ErrClosed // of the store, or nobody is left to see it
		}
		h.fail(err)
		return
	}
}

func (h *hub) upstream() backend.Watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// fail tells all subscriptions that the stream is over.
func (h *hub) fail(err error) {
	h.c.mu.Lock()
	if h.c.hubs[h.key] == h {
		delete(h.c.hubs, h.key)
	}
	h.c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	for sub := range h.subs {
		sub.wake()
	}
}

// dispatch takes an event of the upstream.
func (h *hub) dispatch(ev backend.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ev.Kind == Progress {
		h.answer(ev)
		return
	}
	if h.overlaps(ev) {
		return
	}
	if h.mended {
		ev.Token = "" // from there on, what the repair has told would come again
	}
	h.handOn(ev)
}

// handOn puts ev into the queues. h.mu is held.
func (h *hub) handOn(ev backend.Event) {
	if ev.Revision > h.last {
		h.last, h.whole, h.placed = ev.Revision, h.last, true
	}
	h.record(ev)
	for sub := range h.subs {
		if !sub.apart {
			sub.push(queued{Event: ev})
		}
	}
}

// overlaps reports whether ev was handed on by repair already, as part of what
// it listed after the new upstream was established.
func (h *hub) overlaps(ev backend.Event) bool {
	if !h.mended || h.table == nil || ev.Entry.Key == "" || ev.Revision == 0 {
		return false
	}
	is, ok := h.table[ev.Entry.Key]
	return ev.Revision <= h.floor || ok && ev.Revision <= is.rev || !ok && ev.Kind != Created
}

// record keeps the table up to date.
func (h *hub) record(ev backend.Event) {
	if h.table == nil {
		return
	}
	switch ev.Kind {
	case Deleted:
		delete(h.table, ev.Entry.Key)
	case Created, Updated:
		h.table[ev.Entry.Key] = version{ev.Revision, ev.Entry.Created}
	}
}

// sync asks for m to be put into its queue behind the events of all writes
// that are complete now. Requests are sent one at a time, so that the next
// Progress event always answers the one under way. h.mu is held.
func (h *hub) sync(m mark) {
	h.waiting = append(h.waiting, m)
	h.askNext()
}

func (h *hub) askNext() {
	if h.syncing || len(h.waiting) == 0 || h.err != nil {
		return
	}
	h.syncing = true
	h.asked, h.waiting = h.waiting, nil
	up := h.up
	if !h.c.spawn(func() { h.ask(up) }) {
		h.syncing = false
	}
}

// ask repeats the request until the driver has taken it. If the upstream was
// replaced meanwhile, repair asks the new one.
func (h *hub) ask(up backend.Watch) {
	var b backoff.Backoff
	for {
		err := up.Sync(h.ctx)
		switch {
		case err == nil:
			return
		case errors.Is(err, errors.ErrUnsupported):
			// Nothing that needs a mark can be told the truth here.
			h.fail(err)
			h.cancel()
			return
		case !b.Wait(h.ctx) || h.upstream() != up:
			return
		}
	}
}

// answer handles the Progress event that the request under way was for. h.mu
// is held.
func (h *hub) answer(ev backend.Event) {
	h.mended = false
	if h.lossless {
		h.last = max(h.last, ev.Revision)
		h.whole, h.placed = h.last, true
	}
	// Before the marks: a reader whom Sync waited for has its Progress.
	told := ev
	if !h.lossless {
		told.Revision = 0 // what follows may be older
	}
	for sub := range h.subs {
		if sub.progress {
			sub.push(queued{Event: told})
		}
	}
	for _, m := range h.asked {
		if _, ok := h.subs[m.sub]; ok {
			m.sub.push(queued{Event: ev, mark: m.id})
		}
	}
	h.asked, h.syncing = nil, false
	h.askNext()
}

// attach makes sub take part, from the next event on.
func (h *hub) attach(sub *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[sub] = struct{}{}
}

// detach ends sub's part and its reference. When it was the last one, nothing
// is left of the upstream on return.
func (h *hub) detach(sub *subscription) {
	h.mu.Lock()
	delete(h.subs, sub)
	h.mu.Unlock()
	if h.release() {
		<-h.exited
	}
}
