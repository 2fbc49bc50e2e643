package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// stream is a watch under test. Every event that it delivers goes through a
// Validator.
type stream struct {
	e *env
	v *Validator
	w backend.Watch
}

// watch opens a watch that ends with the case. before is what is there as it
// begins, where that is not delivered (without Snapshot).
func (e *env) watch(s backend.Store, prefix string, o backend.WatchOptions, before ...backend.Entry) *stream {
	e.Helper()
	w, err := s.Watch(e.ctx, prefix, o)
	e.noErr(err, "Watch(%q, %+v)", prefix, o)
	e.Cleanup(func() {
		if err := w.Close(); err != nil {
			e.Errorf("Watch.Close: %v", err)
		}
	})
	v := &Validator{Prefix: prefix, Options: o, Caps: e.caps}
	v.Begin(before...)
	return &stream{e: e, v: v, w: w}
}

// nextOf is w.Next, but does not wait for ever.
func (e *env) nextOf(w backend.Watch) (backend.Event, error) {
	ctx, cancel := context.WithTimeoutCause(e.ctx, e.patience, errors.New("no event came"))
	defer cancel()
	return w.Next(ctx)
}

// read takes the next event and validates it.
func (st *stream) read() backend.Event {
	st.e.Helper()
	ev, err := st.e.nextOf(st.w)
	st.e.noErr(err, "Next of the watch of %q", st.v.Prefix)
	if err := st.v.Observe(ev); err != nil {
		st.e.Fatalf("watch of %q: %v", st.v.Prefix, err)
	}
	return ev
}

// next is the next event of a key, or the snapshot's Synced. What a store that
// is not lossless says of a resynchronisation, and answers to an earlier Sync,
// are passed over.
func (st *stream) next() backend.Event {
	st.e.Helper()
	for {
		resync := st.v.resync
		ev := st.read()
		switch {
		case ev.Kind == backend.Progress, ev.Kind == backend.Resynced, ev.Kind == backend.Synced && resync:
		default:
			return ev
		}
	}
}

// want demands that the next event is of that kind, key and value.
func (st *stream) want(kind backend.Kind, key, value string) backend.Event {
	st.e.Helper()
	ev := st.next()
	if ev.Kind != kind || ev.Key != key || string(ev.Value) != value {
		st.e.Fatalf("watch of %q: got %v of %q (value %q), want %v of %q (value %q)",
			st.v.Prefix, ev.Kind, ev.Key, short(ev.Value), kind, key, short([]byte(value)))
	}
	return ev
}

// rest are the events of keys up to the answer to a Sync, which come after all
// writes that are complete now: the way to see without waiting that nothing
// else comes.
func (st *stream) rest() []backend.Event {
	st.e.Helper()
	st.sync()
	var events []backend.Event
	for {
		resync := st.v.resync
		ev := st.read()
		switch {
		case ev.Kind == backend.Progress:
			return events
		case ev.Kind == backend.Resynced, ev.Kind == backend.Synced && resync:
		default:
			events = append(events, ev)
		}
	}
}

// sync asks for a Progress event, again while the store is away.
func (st *stream) sync() {
	st.e.Helper()
	st.e.eventually("Sync", func() bool {
		err := st.w.Sync(st.e.ctx)
		if err != nil && !errors.Is(err, backend.ErrUnavailable) {
			st.e.Fatalf("Sync: %v", err)
		}
		return err == nil
	})
}

// quiet demands that no event is to come of the writes so far.
func (st *stream) quiet() {
	st.e.Helper()
	if evs := st.rest(); len(evs) > 0 {
		st.e.Fatalf("watch of %q: unexpected event %v of %q (value %q)", st.v.Prefix, evs[0].Kind, evs[0].Key, short(evs[0].Value))
	}
}

// drained takes everything that is to come of the writes so far, and judges
// the stream against them.
func (st *stream) drained(changes []Change) {
	st.e.Helper()
	st.rest()
	if err := st.v.Complete(changes); err != nil {
		st.e.Fatalf("watch of %q (%+v): %v", st.v.Prefix, st.v.Options, err)
	}
}

// history is what the writers of a case did.
type history struct {
	mu      sync.Mutex
	changes []Change
	values  int
}

func (h *history) add(c ...Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, c...)
}

// made are the changes so far; those of one key are in order.
func (h *history) made() []Change {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.changes)
}

// value returns one that no other put has.
func (h *history) value() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values++
	return fmt.Appendf(nil, "v%d", h.values)
}

// write makes n random changes to keys of the writer's own, below dir, until
// they are made or stop is closed (nil: never), and records them.
func (h *history) write(e *env, s backend.Store, dir string, n int, stop <-chan struct{}) {
	keys := []string{dir + "/a", dir + "/a-b", dir + "/b/c", dir + "/d", "x/" + dir}
	pick := func() string { return keys[rand.IntN(len(keys))] }
	for range n {
		select {
		case <-stop:
			return
		default:
		}
		var err error
		switch rand.IntN(6) {
		case 0, 1, 2:
			err = h.put(e.ctx, s, pick())
		case 3:
			err = h.remove(e.ctx, s, pick())
		case 4:
			err = h.commit(e.ctx, s, keys)
		case 5: // delete and recreate, faster than a watch may notice
			k := pick()
			if err = h.remove(e.ctx, s, k); err == nil {
				err = h.put(e.ctx, s, k)
			}
		}
		if err != nil {
			e.Errorf("writer of %s: %v", dir, err)
			return
		}
	}
}

// outcome sorts err into: applied, perhaps applied, not applied; a fault that
// the store survives is no error of the test's.
func outcome(err error) (applied, uncertain bool, fatal error) {
	switch {
	case err == nil:
		return true, false, nil
	case errors.Is(err, backend.ErrUncertain):
		return false, true, nil
	case errors.Is(err, backend.ErrUnavailable), errors.Is(err, backend.ErrNotFound):
		return false, false, nil
	}
	return false, false, err
}

func (h *history) put(ctx context.Context, s backend.Store, key string) error {
	v := h.value()
	ent, err := s.Put(ctx, key, v, backend.PutOptions{})
	applied, uncertain, fatal := outcome(err)
	if applied || uncertain {
		h.add(Change{Key: key, Value: v, Revision: ent.Revision, Uncertain: uncertain})
	}
	return fatal
}

func (h *history) remove(ctx context.Context, s backend.Store, key string) error {
	applied, uncertain, fatal := outcome(s.Delete(ctx, key, backend.DeleteOptions{}))
	if applied || uncertain {
		h.add(Change{Key: key, Delete: true, Uncertain: uncertain})
	}
	return fatal
}

// commit writes all keys but one, which it deletes. Only the writer of the
// keys may call it: whether a delete found its key is not told by Commit.
func (h *history) commit(ctx context.Context, s backend.Store, keys []string) error {
	var t backend.Txn
	var changes []Change
	gone := rand.IntN(len(keys))
	for i, k := range keys {
		if i == gone {
			continue
		}
		v := h.value()
		t.Writes = append(t.Writes, backend.Write{Key: k, Value: v})
		changes = append(changes, Change{Key: k, Value: v})
	}
	present, err := s.Get(ctx, keys[gone], backend.GetOptions{})
	if err == nil {
		t.Writes = append(t.Writes, backend.Write{Key: keys[gone], Delete: true})
		t.Checks = append(t.Checks, backend.Check{If: backend.AtRevision, Key: keys[gone], Revision: present.Revision})
		changes = append(changes, Change{Key: keys[gone], Delete: true})
	}
	res, err := s.Commit(ctx, t)
	if errors.Is(err, backend.ErrConflict) {
		return nil // an uncertain write of the writer's own landed late
	}
	applied, uncertain, fatal := outcome(err)
	if applied || uncertain {
		for i := range changes {
			changes[i].Uncertain = uncertain
			if !changes[i].Delete {
				changes[i].Revision = res.Revision
			}
		}
		h.add(changes...)
	}
	return fatal
}

// sameEntry compares what an event tells with what a read tells.
func sameEntry(a, b backend.Entry) bool {
	return a.Key == b.Key && a.Revision == b.Revision && bytes.Equal(a.Value, b.Value)
}

// soon runs f, which has to return by itself, and fails when it hangs.
func (e *env) soon(what string, f func()) {
	e.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(e.patience):
		e.Fatalf("%s hangs", what)
	}
}
