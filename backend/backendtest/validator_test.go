package backendtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/polykv/kv/backend"
)

// world makes random changes and the streams that watches may tell of them.
type world struct {
	rng     *rand.Rand
	caps    backend.Capabilities
	rev     backend.Revision
	now     map[string]backend.Entry
	made    []Change
	pending []Change        // uncertain ones that have not come yet
	applied []backend.Event // every revision, as a lossless watch tells it
}

func newWorld(seed uint64, lossless bool) *world {
	return &world{
		rng:  rand.New(rand.NewPCG(seed, 1)),
		caps: backend.Capabilities{Lossless: lossless},
		now:  map[string]backend.Entry{},
	}
}

// change makes one change. One in eight is uncertain, and then in doubt: it is
// applied now, or beyond changes to come, or never.
func (w *world) change() {
	if n := len(w.pending); n > 0 && w.rng.IntN(4) == 0 {
		i := w.rng.IntN(n)
		w.apply(w.pending[i])
		w.pending = slices.Delete(w.pending, i, i+1)
	}
	c := Change{Key: []string{"d/a", "d/b", "d/c/x"}[w.rng.IntN(3)], Uncertain: w.rng.IntN(8) == 0}
	if _, there := w.now[c.Key]; there && w.rng.IntN(3) == 0 {
		c.Delete = true
	} else {
		c.Value = fmt.Append(nil, "v", len(w.made))
	}
	if c.Uncertain && w.rng.IntN(2) == 0 {
		w.pending = append(w.pending, c)
	} else if w.apply(c); !c.Uncertain && !c.Delete {
		c.Revision = w.rev
	}
	w.made = append(w.made, c)
}

// apply carries a change out.
func (w *world) apply(c Change) {
	ev := backend.Event{Kind: backend.Created, Entry: backend.Entry{Key: c.Key, Value: c.Value, Revision: w.rev + 1}}
	if was, there := w.now[c.Key]; there {
		ev.Kind, ev.Prev = backend.Updated, &was
	}
	switch {
	case c.Delete && ev.Prev == nil:
		return // it came too late to find anything
	case c.Delete:
		ev.Kind = backend.Deleted
		delete(w.now, c.Key)
	default:
		w.now[c.Key] = ev.Entry
	}
	w.rev++
	w.applied = append(w.applied, ev)
}

// merged is a stream that skips intermediate states, but tells of recreations.
func (w *world) merged() []backend.Event {
	var out []backend.Event
	type seen struct {
		told, store *backend.Entry
		gone        bool // since it was told
	}
	keys := map[string]*seen{}
	flush := func(key string) {
		k := keys[key]
		if k.told != nil && (k.gone || k.store == nil) {
			out = append(out, backend.Event{Kind: backend.Deleted, Entry: backend.Entry{Key: key}, Prev: k.told})
			k.told = nil
		}
		if k.store != nil && (k.told == nil || k.told.Revision != k.store.Revision) {
			ev := backend.Event{Kind: backend.Created, Entry: *k.store}
			if k.told != nil {
				ev.Kind, ev.Prev = backend.Updated, k.told
			}
			out = append(out, ev)
			k.told = k.store
		}
		k.gone = false
	}
	for _, ev := range w.applied {
		k := keys[ev.Key]
		if k == nil {
			k = &seen{}
			keys[ev.Key] = k
		}
		if ev.Kind == backend.Deleted {
			k.store, k.gone = nil, true
		} else {
			ent := ev.Entry
			k.store = &ent
		}
		if w.rng.IntN(3) == 0 {
			flush(ev.Key)
		}
	}
	for key := range keys {
		flush(key)
	}
	return out
}

func (w *world) stream() []backend.Event {
	if w.caps.Lossless {
		return slices.Clone(w.applied)
	}
	return w.merged()
}

// snapshot is a stream that begins after the first n changes that were applied.
func (w *world) snapshot(n int) []backend.Event {
	state := map[string]backend.Entry{}
	var rev backend.Revision
	for _, ev := range w.applied[:n] {
		rev = ev.Revision
		if delete(state, ev.Key); ev.Kind != backend.Deleted {
			state[ev.Key] = ev.Entry
		}
	}
	var out []backend.Event
	for _, ent := range state {
		out = append(out, backend.Event{Kind: backend.Existing, Entry: ent})
	}
	out = append(out, backend.Event{Kind: backend.Synced, Entry: backend.Entry{Revision: rev}})
	return append(out, w.applied[n:]...)
}

func judge(events []backend.Event, made []Change, o backend.WatchOptions, caps backend.Capabilities) error {
	v := Validator{Prefix: "d", Options: o, Caps: caps}
	for _, ev := range events {
		if err := v.Observe(ev); err != nil {
			return err
		}
	}
	return v.Complete(made)
}

func TestValidatorAcceptsWhatIsRight(t *testing.T) {
	for seed := range uint64(2000) {
		for _, lossless := range []bool{true, false} {
			w := newWorld(seed, lossless)
			for range 30 {
				w.change()
			}
			if err := judge(w.stream(), w.made, backend.WatchOptions{Prev: true}, w.caps); err != nil {
				t.Fatalf("seed %d, lossless %v: %v", seed, lossless, err)
			}
			if len(w.applied) > 0 {
				n := w.rng.IntN(len(w.applied))
				if err := judge(w.snapshot(n), w.made, backend.WatchOptions{Prev: true, Snapshot: true}, w.caps); err != nil {
					t.Fatalf("seed %d, lossless %v, snapshot after %d: %v", seed, lossless, n, err)
				}
			}
		}
	}
}

// The changes of these worlds are all certain: one that may have been lost
// excuses a stream that lost it.
func TestValidatorFindsWhatIsWrong(t *testing.T) {
	for name, d := range map[string]struct {
		convergent bool // wrong on a store that merges too
		spoil      func(w *world, events []backend.Event, i int) []backend.Event
	}{
		"an event is lost": {false, func(_ *world, evs []backend.Event, i int) []backend.Event { return slices.Delete(evs, i, i+1) }},
		"the last event of a key is lost": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			for j := len(evs) - 1; j >= 0; j-- {
				if evs[j].Key == evs[i].Key {
					return slices.Delete(evs, j, j+1)
				}
			}
			return nil
		}},
		"an event comes twice": {true, func(_ *world, evs []backend.Event, i int) []backend.Event { return slices.Insert(evs, i, evs[i]) }},
		"two events change places": {false, func(_ *world, evs []backend.Event, i int) []backend.Event {
			if i+1 == len(evs) {
				return nil
			}
			evs[i], evs[i+1] = evs[i+1], evs[i]
			return evs
		}},
		"another kind": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			evs[i].Kind = evs[i].Kind%3 + 1
			return evs
		}},
		"another value": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			evs[i].Value = []byte("another")
			return evs
		}},
		"another previous value": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			if evs[i].Prev == nil {
				return nil
			}
			evs[i].Prev = &backend.Entry{Key: evs[i].Key, Value: []byte("another"), Revision: evs[i].Prev.Revision}
			return evs
		}},
		"a key out of scope": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			return slices.Insert(evs, i, backend.Event{Kind: backend.Created, Entry: backend.Entry{Key: "dd/a", Revision: 1}})
		}},
		"a key that nobody wrote": {true, func(w *world, evs []backend.Event, i int) []backend.Event {
			return append(evs, backend.Event{Kind: backend.Created, Entry: backend.Entry{Key: "d/z", Revision: w.rev + 1}})
		}},
		"a recreation that is told as an update": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			for j := i; j < len(evs); j++ {
				if evs[j].Kind != backend.Deleted {
					continue
				}
				for k := j + 1; k < len(evs); k++ {
					if evs[k].Key == evs[j].Key {
						evs[k].Kind, evs[k].Prev = backend.Updated, nil
						return slices.Delete(evs, j, j+1)
					}
				}
			}
			return nil
		}},
		"a token that nothing resumes": {true, func(_ *world, evs []backend.Event, i int) []backend.Event {
			evs[i].Token = "t"
			return evs
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for seed := range uint64(300) {
				for _, lossless := range []bool{true, false} {
					if !lossless && !d.convergent {
						continue
					}
					w := newWorld(seed, lossless)
					for len(w.made) < 30 {
						w.change()
					}
					if slices.ContainsFunc(w.made, func(c Change) bool { return c.Uncertain }) {
						w = certain(w)
					}
					events := w.stream()
					spoilt := d.spoil(w, slices.Clone(events), w.rng.IntN(len(events)))
					if spoilt == nil {
						continue
					}
					tried++
					if judge(spoilt, w.made, backend.WatchOptions{Prev: true}, w.caps) == nil {
						t.Fatalf("seed %d, lossless %v: not found.\nwrites: %s\nevents: %s\nspoilt: %s",
							seed, lossless, printChanges(w.made), printEvents(events), printEvents(spoilt))
					}
				}
			}
			if tried < 100 {
				t.Errorf("only %d streams could be spoilt so", tried)
			}
		})
	}
}

// certain is w without its doubts: what was applied was acknowledged, and what
// was lost was not made.
func certain(w *world) *world {
	w.made = nil
	for _, ev := range w.applied {
		c := Change{Key: ev.Key, Delete: ev.Kind == backend.Deleted, Value: ev.Value}
		if !c.Delete {
			c.Revision = ev.Revision
		}
		w.made = append(w.made, c)
	}
	return w
}

func TestValidatorOfSnapshots(t *testing.T) {
	caps := backend.Capabilities{Lossless: true}
	o := backend.WatchOptions{Snapshot: true}
	put := func(kind backend.Kind, key, value string, rev backend.Revision) backend.Event {
		return backend.Event{Kind: kind, Entry: backend.Entry{Key: key, Value: []byte(value), Revision: rev}}
	}
	mark := func(kind backend.Kind, rev backend.Revision) backend.Event {
		return backend.Event{Kind: kind, Entry: backend.Entry{Revision: rev}}
	}
	made := []Change{
		{Key: "d/a", Value: []byte("1"), Revision: 1}, {Key: "d/a", Value: []byte("2"), Revision: 2},
		{Key: "d/b", Value: []byte("3"), Revision: 3}, {Key: "d/b", Delete: true}, {Key: "d/a", Value: []byte("5"), Revision: 5},
	}
	right := []backend.Event{
		put(backend.Existing, "d/a", "2", 2), put(backend.Existing, "d/b", "3", 3), mark(backend.Synced, 3),
		put(backend.Deleted, "d/b", "", 4), put(backend.Updated, "d/a", "5", 5), mark(backend.Progress, 5),
	}
	if err := judge(right, made, o, caps); err != nil {
		t.Errorf("a stream that is right: %v", err)
	}
	for name, events := range map[string][]backend.Event{
		"a gap between the snapshot and the changes": {put(backend.Existing, "d/a", "1", 1), mark(backend.Synced, 1), put(backend.Created, "d/b", "3", 3), put(backend.Deleted, "d/b", "", 4), put(backend.Updated, "d/a", "5", 5)},
		"a repeat of what the snapshot has":          slices.Insert(slices.Clone(right), 3, put(backend.Updated, "d/a", "2", 2)),
		"an entry of the snapshot is missing":        right[1:],
		"a change before Synced":                     slices.Concat(right[:2], right[3:4], right[2:3], right[4:]),
		"no Synced":                                  right[:2],
		"a second Synced":                            slices.Insert(slices.Clone(right), 4, mark(backend.Synced, 4)),
		"an entry twice":                             slices.Insert(slices.Clone(right), 1, right[0]),
		"a Synced below what it completes":           slices.Replace(slices.Clone(right), 2, 3, mark(backend.Synced, 2)),
		"a Progress beyond what comes after it":      slices.Insert(slices.Clone(right), 3, mark(backend.Progress, 4)),
		"Resynced on a lossless store":               slices.Insert(slices.Clone(right), 3, mark(backend.Resynced, 0)),
	} {
		if judge(events, made, o, caps) == nil {
			t.Errorf("%s is not found", name)
		}
	}
}
