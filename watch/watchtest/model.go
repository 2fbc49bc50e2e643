package watchtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/watch"
)

// model is what a reader of events knows, and judges what it is told by that.
type model[T comparable] struct {
	now      map[string]kv.Entry[T]
	synced   bool
	resynced bool
	prev     bool        // events have Prev
	last     kv.Revision // of the last change, where the order is over all keys
	ordered  bool
	events   int
}

func newModel[T comparable]() *model[T] { return &model[T]{now: map[string]kv.Entry[T]{}} }

// observe takes one event.
func (m *model[T]) observe(ev kv.Event[T]) error {
	m.events++
	was, known := m.now[ev.Key]
	fail := func(why string) error {
		return fmt.Errorf("event %d, %v of %q at %d (%v), where %v was known: %s", m.events, ev.Kind, ev.Key, ev.Revision, ev.Value, was, why)
	}
	switch ev.Kind {
	case kv.Synced:
		if m.synced && !m.resynced {
			return fail("a second time")
		}
		m.synced, m.resynced = true, false
		return nil
	case kv.Resynced:
		if m.resynced || !m.synced {
			return fail("before the last was complete")
		}
		m.resynced, m.last = true, 0
		return nil
	case kv.Existing:
		if known || m.synced {
			return fail("not at the beginning")
		}
	case kv.Created:
		if known || !m.synced {
			return fail("the key was there")
		}
	case kv.Updated, kv.Deleted:
		if !known || !m.synced {
			return fail("the key was absent")
		}
		if m.prev && (ev.Prev == nil || *ev.Prev != was) {
			return fail(fmt.Sprintf("the entry before is told as %v", ev.Prev))
		}
	default:
		return fail("unknown kind")
	}
	if ev.Revision != 0 {
		if known && ev.Revision <= was.Revision {
			return fail("revisions of a key grow")
		}
		if m.ordered && ev.Kind != kv.Existing && !m.resynced {
			if ev.Revision < m.last {
				return fail(fmt.Sprintf("after revision %d", m.last))
			}
			m.last = ev.Revision
		}
	}
	if ev.Kind == kv.Deleted {
		delete(m.now, ev.Key)
	} else {
		m.now[ev.Key] = ev.Entry
	}
	return nil
}

// change takes what a handler is told.
func (m *model[T]) change(c watch.Change[T]) error {
	if was := m.now[c.Key]; was != c.Old {
		return fmt.Errorf("%q: the old entry is told as %v, it was %v", c.Key, c.Old, was)
	}
	if c.New.Revision == 0 {
		delete(m.now, c.Key)
		return nil
	}
	if c.Old.Revision >= c.New.Revision {
		return fmt.Errorf("%q: %v after %v", c.Key, c.New, c.Old)
	}
	m.now[c.Key] = c.New
	return nil
}

// is compares an entry with what its write returned, which need not tell when
// the key was made.
func is[T comparable](got, want kv.Entry[T]) bool {
	if want.Created == 0 {
		got.Created = 0
	}
	return got == want
}

// has compares the model with want.
func (m *model[T]) has(want map[string]kv.Entry[T]) error {
	for key, ent := range want {
		if !is(m.now[key], ent) {
			return fmt.Errorf("%q is known as %v, and is %v", key, m.now[key], ent)
		}
	}
	for key := range m.now {
		if _, ok := want[key]; !ok {
			return fmt.Errorf("%q is known as %v, and is absent", key, m.now[key])
		}
	}
	return nil
}

// state is what the store has.
func (e *env) state(src *kv.Typed[record]) map[string]kv.Entry[record] {
	e.Helper()
	all := map[string]kv.Entry[record]{}
	for ent, err := range src.List(e.ctx(), "") {
		if !isBad(err) {
			e.must("list", err)
			all[ent.Key] = ent
		}
	}
	return all
}

// same compares a mirror with its store.
func (e *env) same(m *watch.Mirror[record], src *kv.Typed[record]) {
	e.Helper()
	known := newModel[record]()
	var order []string
	for ent := range m.All() {
		known.now[ent.Key] = ent
		order = append(order, ent.Key)
	}
	if !slices.IsSorted(order) || m.Len() != len(order) {
		e.Errorf("All yields %d of %d entries, as %q", len(order), m.Len(), order)
	}
	if err := known.has(e.state(src)); err != nil {
		e.Errorf("the mirror: %v", err)
	}
}

// writers write to keys of their own until stopped. What they make is unique.
type writers struct {
	wg   sync.WaitGroup
	stop chan struct{}
	once sync.Once
}

// write starts n writers of each changes (0: until they are stopped), by src of
// each in turn.
func (e *env) write(n, each int, sources ...*kv.Typed[record]) *writers {
	w := &writers{stop: make(chan struct{})}
	seed := rand.Uint64()
	e.Logf("seed %d", seed)
	for i := range n {
		src := sources[i%len(sources)]
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		ctx := e.ctx()
		w.wg.Go(func() {
			for j := 0; each == 0 || j < each; j++ {
				select {
				case <-w.stop:
					return
				default:
				}
				key := fmt.Sprintf("w%d/%d", i, rng.IntN(8))
				var err error
				switch rng.IntN(5) {
				case 0:
					err = src.Delete(ctx, key)
				case 1: // gone and back, faster than a watch may notice
					if err = src.Delete(ctx, key); err == nil {
						_, err = src.Put(ctx, key, record{N: j})
					}
				default:
					_, err = src.Put(ctx, key, record{N: j, Zone: key})
				}
				if err != nil && !survivable(err) {
					e.Errorf("writer %d: %v", i, err)
					return
				}
				if each == 0 {
					time.Sleep(time.Millisecond) // or a store in memory outruns its history
				}
			}
		})
	}
	e.Cleanup(w.halt)
	return w
}

// survivable reports whether a writer goes on after err: the store was away.
func survivable(err error) bool {
	return errors.Is(err, kv.ErrNotFound) || errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain)
}

func (w *writers) wait() { w.wg.Wait() }

func (w *writers) halt() {
	w.once.Do(func() { close(w.stop) })
	w.wg.Wait()
}

// settle writes one key more, again while the store is away, and returns when
// it is there.
func (e *env) settle(src *kv.Typed[record], key string) kv.Entry[record] {
	e.Helper()
	var ent kv.Entry[record]
	e.eventually("a write succeeds", func() bool {
		var err error
		ent, err = src.Put(e.ctx(), key, record{N: -1})
		if err != nil && !survivable(err) {
			e.Fatalf("put: %v", err)
		}
		return err == nil
	})
	return ent
}

// follower reads a stream in a goroutine, judging it, until it has told the
// state that arrive names.
type follower struct {
	name  string
	want  chan map[string]kv.Entry[record]
	done  chan error
	model *model[record]
}

func (e *env) follow(name string, s watch.Stream[record], m *model[record]) *follower {
	f := &follower{name: name, want: make(chan map[string]kv.Entry[record], 1), done: make(chan error, 1), model: m}
	go func() {
		defer s.Close()
		f.done <- f.run(e.ctx(), s)
	}()
	return f
}

func (f *follower) run(ctx context.Context, s watch.Stream[record]) error {
	var want map[string]kv.Entry[record]
	for {
		call, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		ev, err := s.Next(call)
		cancel()
		switch {
		case err == nil:
			if err := f.model.observe(ev); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return fmt.Errorf("not in time: %w", f.model.has(want))
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		select {
		case want = <-f.want:
		default:
		}
		if want != nil && f.model.synced && !f.model.resynced && f.model.has(want) == nil {
			return nil
		}
	}
}

// arrive waits until all of them know what src has.
func (e *env) arrive(src *kv.Typed[record], all ...*follower) {
	e.Helper()
	want := e.state(src)
	for _, f := range all {
		f.want <- want
	}
	for _, f := range all {
		if err := <-f.done; err != nil {
			e.Errorf("%s: %v", f.name, err)
		}
	}
}

// isUnknown reports whether err leaves open what has become of a write.
func isUnknown(err error) bool {
	return errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrUncertain)
}
