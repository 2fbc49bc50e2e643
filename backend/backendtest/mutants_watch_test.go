package backendtest_test

import (
	"context"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// impatient is admitted whoever is ahead.
type impatient struct{ backend.Contender }

func (c impatient) Wait(ctx context.Context) error { return backend.ContextError(ctx) }
func (c impatient) Token() uint64                  { return 1 }

// late is a watch that is opened at its first use.
type late struct {
	ready func() (backend.Watch, error)
}

func (l *late) Next(ctx context.Context) (backend.Event, error) {
	w, err := l.ready()
	if err != nil {
		return backend.Event{}, err
	}
	return w.Next(ctx)
}

func (l *late) Sync(ctx context.Context) error {
	w, err := l.ready()
	if err != nil {
		return err
	}
	return w.Sync(ctx)
}

func (l *late) Health() backend.Health { return backend.Health{LastContact: time.Now()} }

func (l *late) Close() error {
	w, err := l.ready()
	if err != nil {
		return nil
	}
	return w.Close()
}

// hoarder reads ahead of its reader without a bound.
type hoarder struct {
	backend.Watch
	mu     sync.Mutex
	events []backend.Event
	err    error
	more   chan struct{}
	done   chan struct{}
}

func newHoarder(ctx context.Context, w backend.Watch) *hoarder {
	h := &hoarder{Watch: w, more: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for {
			ev, err := w.Next(ctx)
			h.mu.Lock()
			if err == nil {
				h.events = append(h.events, ev)
			}
			h.err = err
			h.mu.Unlock()
			select {
			case h.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return h
}

func (h *hoarder) Next(ctx context.Context) (backend.Event, error) {
	for {
		h.mu.Lock()
		events, err := h.events, h.err
		if len(events) > 0 {
			h.events = events[1:]
		}
		h.mu.Unlock()
		if len(events) > 0 {
			return events[0], nil
		}
		if err != nil {
			return backend.Event{}, err
		}
		select {
		case <-h.more:
		case <-ctx.Done():
			return backend.Event{}, backend.ContextError(ctx)
		}
	}
}

func (h *hoarder) Close() error {
	err := h.Watch.Close()
	<-h.done
	return err
}
