package prove

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
)

// A watcher reads a watch and judges each event as it comes.
type watcher struct {
	name   string
	links  []*link // resumed watches change between them
	prefix string
	opts   backend.WatchOptions
	caps   backend.Capabilities
	h      *history
	every  int  // events after which the watch is closed and opened again; 0: never
	forget bool // the store may forget what the watch has not seen

	w       atomic.Pointer[kv.Watch[[]byte]]
	stay    atomic.Bool // do not open again
	v       *backendtest.Validator
	events  []backend.Event
	mended  bool          // a lossless watch was resynchronised: it has told its end, not all of its way
	differs bool          // from Resynced to the next event with a token
	opened  int           // how often
	token   backend.Token // of the last event
	synced  chan struct{} // closed once the first watch has told its snapshot
	once    sync.Once
}

// begin opens the watch.
func (w *watcher) begin(ctx context.Context) error {
	w.synced = make(chan struct{})
	w.opts.Snapshot, w.opts.Prev = true, true
	w.restart()
	return w.open(ctx)
}

// restart forgets what was told.
func (w *watcher) restart() {
	w.v = &backendtest.Validator{Prefix: w.prefix, Options: w.opts, Caps: w.caps, Others: true}
	w.events = nil
}

func (w *watcher) open(ctx context.Context) error {
	opts := []kv.WatchOption{kv.WithPrev()}
	switch {
	case w.token != "" && w.caps.Resumable:
		opts = append(opts, kv.Resume(w.token))
	default:
		opts = append(opts, kv.FromSnapshot())
		w.restart()
	}
	l := w.links[w.opened%len(w.links)]
	for {
		opened, err := l.Watch(ctx, w.prefix, opts...)
		if err == nil {
			w.opened++
			w.w.Store(opened)
			return nil
		}
		if !errors.Is(err, kv.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// run reads until ctx ends.
func (w *watcher) run(ctx context.Context) {
	n := 0
	for {
		ev, err := w.w.Load().Next(ctx)
		if ctx.Err() != nil || err == nil && !w.take(toBackend(ev)) {
			w.w.Load().Close()
			return
		}
		if err == nil {
			if n++; w.every == 0 || n < w.every || w.stay.Load() || ev.Kind != kv.Updated && ev.Kind != kv.Created {
				continue
			}
			n = 0
		}
		w.w.Load().Close()
		if err == nil {
			err = w.open(ctx)
		}
		if errors.Is(err, kv.ErrHistoryLost) && w.forget {
			w.mended, w.token = true, ""
			err = w.open(ctx)
		}
		if err != nil {
			if ctx.Err() == nil {
				w.h.fail("%s, opened %d times: %v", w.name, w.opened, err)
			}
			return
		}
	}
}

// finish waits until the reader has come back from everything that was written, and returns an error if that takes longer
// than ctx.
func (w *watcher) finish(ctx context.Context) error {
	w.stay.Store(true)
	for {
		now := w.w.Load()
		err := now.Sync(ctx)
		if err == nil && w.w.Load() == now {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not come back: %w (%w)", w.name, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// take judges an event. It reports whether to go on.
func (w *watcher) take(ev backend.Event) bool {
	if ev.Kind == backend.Resynced && w.caps.Lossless {
		if !w.forget {
			w.h.fail("%s was resynchronised, though the store is lossless and nothing was forgotten", w.name)
			return false
		}
		// What follows are differences, which are no history.
		w.mended = true
		w.v.Caps.Lossless = false
	}
	seen := ev
	if w.differs = ev.Kind == backend.Resynced || w.differs && ev.Token == ""; w.differs && w.mended {
		seen.Token = "none" // differences, and what overlaps with them, are no place to resume from
	}
	if err := w.v.Observe(seen); err != nil {
		w.h.fail("%s: %v", w.name, err)
		return false
	}
	if ev.Kind == backend.Synced {
		w.once.Do(func() { close(w.synced) })
	}
	if ev.Token != "" {
		w.token = ev.Token
	}
	w.events = append(w.events, ev)
	if ev.Kind != backend.Deleted {
		w.h.saw(Cell{Value: string(ev.Value), Revision: ev.Revision, Created: ev.Created})
	}
	if ev.Prev != nil {
		w.h.saw(Cell{Value: string(ev.Prev.Value), Revision: ev.Prev.Revision, Created: ev.Prev.Created})
	}
	return true
}

// toBackend is the event as drivers have it.
func toBackend(ev kv.Event[[]byte]) backend.Event {
	out := backend.Event{Kind: ev.Kind, Entry: backend.Entry(ev.Entry), Token: ev.Token}
	if ev.Prev != nil {
		prev := backend.Entry(*ev.Prev)
		out.Prev = &prev
	}
	return out
}

// converged compares what the stream told last with what is there.
func (w *watcher) converged(final map[string]Cell) error {
	now := w.v.Now()
	for key, cell := range final {
		got := now[key]
		if got.Revision != cell.Revision || string(got.Value) != cell.Value {
			return fmt.Errorf("%s says that %q is %q at %d; it is %v", w.name, key, got.Value, got.Revision, cell)
		}
	}
	for key, e := range now {
		if _, ok := final[key]; !ok {
			return fmt.Errorf("%s says that %q is there, at %d; it is not", w.name, key, e.Revision)
		}
	}
	return nil
}
