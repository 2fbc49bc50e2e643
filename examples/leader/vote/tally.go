package vote

import (
	"context"
	"fmt"
	"sync"

	"github.com/polykv/kv"
)

// tally follows what leaders write, and notices if the store accepted a write
// of an earlier leader after one of a later leader.
type tally struct {
	w    *kv.Watch[[]byte]
	done chan struct{}

	mu    sync.Mutex
	n     int    // writes
	term  int    // of them by the last leader
	token uint64 // of the last leader
	err   error
	more  chan struct{} // closed at the next write
}

func newTally(ctx context.Context, s *kv.Store) (*tally, error) {
	w, err := s.WatchKey(ctx, work)
	if err != nil {
		return nil, err
	}
	t := &tally{w: w, done: make(chan struct{}), more: make(chan struct{})}
	go t.follow()
	return t, nil
}

func (t *tally) close() {
	t.w.Close()
	<-t.done
}

func (t *tally) follow() {
	defer close(t.done)
	for ev, err := range t.w.Events() {
		t.mu.Lock()
		t.note(ev, err)
		close(t.more)
		t.more = make(chan struct{})
		t.mu.Unlock()
	}
}

func (t *tally) note(ev kv.Event[[]byte], err error) {
	var name string
	var token uint64
	switch {
	case t.err != nil:
	case err != nil:
		t.err = err
	case ev.Kind != kv.Created && ev.Kind != kv.Updated:
	default:
		if _, err := fmt.Sscan(string(ev.Value), &name, &token); err != nil {
			t.err = err
			return
		}
		if token < t.token {
			t.err = fmt.Errorf("%s wrote with token %d after token %d", name, token, t.token)
		}
		if token != t.token {
			t.token, t.term = token, 0
		}
		t.n++
		t.term++
	}
}

// wrote waits for some writes of the leader with that token.
func (t *tally) wrote(ctx context.Context, token uint64, some int) error {
	for {
		t.mu.Lock()
		ok, err, more := t.token == token && t.term >= some, t.err, t.more
		t.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-more:
		case <-t.done:
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *tally) result() (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n, t.err
}
