package watchtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/watch"
)

// counting is a codec that counts what it decodes.
type counting struct {
	codec.Codec[record]
	decoded *atomic.Int64
}

func (c counting) Decode(b []byte) (record, error) {
	c.decoded.Add(1)
	return c.Codec.Decode(b)
}

func fanOut(e *env) {
	s, other := e.open(), e.open()
	src := records(other)
	e.put(src, "w0/0", record{N: -1})
	var decoded atomic.Int64
	m := e.mirror(kv.NewTyped(s, counting{codec.JSON[record](), &decoded}, "r"))
	const subscribers = 60
	var all []*follower
	stuck, strict := m.Subscribe(watch.Buffer(4)), m.Subscribe(watch.Buffer(4), watch.EndWhenSlow())
	defer strict.Close()
	for i := range subscribers {
		known := newModel[record]()
		known.prev = true
		all = append(all, e.follow(fmt.Sprintf("subscriber %d", i), m.Subscribe(watch.Buffer([]int{1, 16, 1024}[i%3])), known))
	}
	var told atomic.Int64
	m.OnChange(func(watch.Change[record]) { told.Add(1) })
	e.write(4, 40, src).wait()
	e.must("Sync", m.Sync(e.ctx()))
	e.arrive(src, all...)
	// Not one more than the mirror's own, a deleted value less: nothing for a subscriber.
	if n := decoded.Load(); n > told.Load()+1 {
		e.Errorf("%d values were decoded for %d changes and %d subscribers", n, told.Load(), subscribers)
	}
	known := newModel[record]()
	known.prev = true
	e.arrive(src, e.follow("the one that did not come", stuck, known))
	for {
		if _, err := strict.Next(e.ctx()); errors.Is(err, watch.ErrSlow) {
			break
		} else if err != nil {
			e.Fatalf("the one that is to end: %v", err)
		}
	}
}

// late opens watches while others write, all on one upstream.
func late(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	first, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	ordered := func() *model[record] {
		known := newModel[record]()
		known.ordered = s.Capabilities().Lossless
		return known
	}
	all := []*follower{e.follow("the first", first, ordered())}
	w := e.write(3, 0, records(other), src)
	for i := range 12 {
		late, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
		e.must("watch", err)
		all = append(all, e.follow(fmt.Sprintf("late %d", i), late, ordered()))
		if i%4 == 3 {
			// A write that starts after Watch returned is seen, without a
			// snapshot too; what was before is not.
			plain, err := src.Watch(e.ctx(), "")
			e.must("watch", err)
			ent := e.put(src, fmt.Sprintf("plain%d", i), record{N: i})
			for {
				ev, err := plain.Next(e.ctx())
				e.must("plain watch", err)
				if ev.Key == ent.Key {
					if ev.Kind != kv.Created || !is(ev.Entry, ent) {
						e.Errorf("a plain watch is told %v %v", ev.Kind, ev.Entry)
					}
					break
				}
			}
			e.must("Close", plain.Close())
		}
	}
	w.halt()
	e.arrive(src, all...)
}

func resume(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	if !s.Capabilities().Resumable {
		tok := kv.Token("x")
		if _, err := src.Watch(e.ctx(), "", kv.Resume(tok)); !errors.Is(err, errors.ErrUnsupported) {
			e.Errorf("Resume, where Resumable is unset: %v", err)
		}
		return
	}
	beside, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	known := newModel[record]()
	known.ordered = true
	all := []*follower{e.follow("beside", beside, known)}
	w, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	known = newModel[record]()
	known.ordered = true
	writing := e.write(3, 0, records(other))
	var token kv.Token
	for i := range 12 {
		for n := 0; n < 20 || token == ""; n++ {
			ev, err := w.Next(e.ctx())
			e.must("watch", err)
			e.must("watch", known.observe(ev))
			token = ev.Token
		}
		e.must("Close", w.Close())
		from := src
		if i%2 == 1 { // of another client
			from = records(other)
		}
		w, err = from.Watch(e.ctx(), "", kv.Resume(token))
		e.must("resume", err)
	}
	writing.halt()
	e.arrive(src, append(all, e.follow("resumed", w, known))...)
}

func value(e *env) {
	s, other := e.open(), e.open()
	src, writer := records(s), records(other)
	bad := make(chan error, 10)
	none := record{N: -1}
	v, err := watch.NewValue(e.ctx(), src, "limits", none, watch.OnBadValue(func(err error) { bad <- err }))
	e.must("value", err)
	defer v.Close()
	check := func(want record) {
		e.Helper()
		e.must("Sync", v.Sync(e.ctx()))
		if got := v.Load(); got != want {
			e.Fatalf("the value is %v, want %v", got, want)
		}
	}
	check(none)
	changed := v.Changed()
	e.put(writer, "limits/below", record{N: 5})
	e.put(writer, "limits", record{N: 1})
	soon(e, "the change", changed)
	check(record{N: 1})
	_, err = other.Put(e.ctx(), "r/limits", []byte("{"))
	e.must("put", err)
	if err := soon(e, "the bad value", bad); !isBad(err) {
		e.Errorf("told: %v", err)
	}
	check(record{N: 1})
	e.put(writer, "limits", record{N: 2})
	check(record{N: 2})
	e.del(writer, "limits")
	check(none)
	e.put(writer, "limits", record{N: 3})
	check(record{N: 3})
	if h := v.Health(); h.LastContact.IsZero() || !h.DisconnectedSince.IsZero() {
		e.Errorf("health: %+v", h)
	}
}

func batches(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	e.put(src, "gone", record{N: 0})
	w, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	known := newModel[record]()
	writer := records(other)
	const updates = 50
	var last kv.Entry[record]
	n := 0
	for batch, err := range watch.Batches(w, 200*time.Millisecond) {
		e.must("batch", err)
		n++
		perKey := map[string]int{}
		for _, ev := range batch {
			e.must("batch", known.observe(ev))
			if perKey[ev.Key]++; ev.Key != "" && (perKey[ev.Key] > 2 || perKey[ev.Key] == 2 && ev.Kind != kv.Created) {
				e.Errorf("a batch has %q %d times", ev.Key, perKey[ev.Key])
			}
		}
		if n == 1 {
			for i := range updates {
				e.put(writer, "hot", record{N: i})
			}
			e.del(writer, "gone")
			last = e.put(writer, "hot", record{N: updates})
		}
		if _, ok := known.now["gone"]; !ok && is(known.now["hot"], last) {
			break
		}
	}
	if known.events > updates {
		e.Errorf("%d updates of one key made %d events", updates, known.events)
	}
}

func channel(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	e.put(src, "a", record{N: 1})
	w, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	ctx, cancel := context.WithCancel(e.ctx())
	events := watch.Chan(ctx, w)
	known := newModel[record]()
	var last kv.Entry[record]
	for known.now["b"].Revision == 0 || !is(known.now["b"], last) {
		r := soon(e, "an event", events)
		e.must("event", r.Err)
		e.must("event", known.observe(r.Event))
		if r.Event.Kind == kv.Synced {
			for i := range 5 {
				last = e.put(records(other), "b", record{N: i})
			}
		}
	}
	cancel()
	for r := range events { // closes
		if r.Err != nil && !errors.Is(r.Err, context.Canceled) {
			e.Errorf("at the end: %v", r.Err)
		}
	}
	if _, err := w.Next(e.ctx()); err == nil {
		e.Error("the watch goes on after its channel")
	}
}

func closing(e *env) {
	s := kv.New(e.openStore(e.T, e.root))
	src := records(s)
	ent := e.put(src, "k", record{N: 1})
	m, err := watch.NewMirror(e.ctx(), src)
	e.must("mirror", err)
	v, err := watch.NewValue(e.ctx(), src, "k", record{})
	e.must("value", err)
	sub := m.Subscribe()
	e.must("Close", s.Close())
	soon(e, "the mirror's end", m.Done())
	soon(e, "the value's end", v.Done())
	if !errors.Is(m.Err(), kv.ErrClosed) || !errors.Is(v.Err(), kv.ErrClosed) {
		e.Errorf("ended with %v and %v", m.Err(), v.Err())
	}
	if got, ok := m.Get("k"); !ok || !is(got, ent) || v.Load() != ent.Value {
		e.Error("what they had is gone")
	}
	for {
		if _, err := sub.Next(e.ctx()); err != nil {
			if !errors.Is(err, kv.ErrClosed) {
				e.Errorf("the subscriber's end: %v", err)
			}
			break
		}
	}
	e.must("Close", errors.Join(sub.Close(), m.Close(), v.Close()))
}
