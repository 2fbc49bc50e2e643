package watchtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/watch"
)

func (e *env) mirror(src *kv.Typed[record], opts ...watch.Option) *watch.Mirror[record] {
	e.Helper()
	m, err := watch.NewMirror(e.ctx(), src, opts...)
	e.must("mirror", err)
	e.Cleanup(func() { m.Close() })
	return m
}

func ready(e *env) {
	var calls atomic.Int64
	s := e.open(kv.Intercept(func(ctx context.Context, _ kv.Call, next func(context.Context) error) error {
		calls.Add(1)
		return next(ctx)
	}))
	src := records(s)
	want := map[string]kv.Entry[record]{}
	for i := range 50 {
		key := fmt.Sprintf("dir%d/k%02d", i%3, i)
		want[key] = e.put(src, key, record{N: i})
	}
	m := e.mirror(src)
	before := calls.Load()
	if st := m.Status(); !st.Synced || st.LastContact.IsZero() || m.Lag() != 0 {
		e.Errorf("the status of a mirror that is ready: %+v, lag %v", st, m.Lag())
	}
	known := newModel[record]()
	for ent := range m.All() {
		known.now[ent.Key] = ent
		if got, ok := m.Get(ent.Key); !ok || got != ent {
			e.Errorf("Get has %v for %v", got, ent)
		}
	}
	if err := known.has(want); err != nil {
		e.Error(err)
	}
	below := 0
	for range m.Below("dir1") {
		below++
	}
	if _, ok := m.Get("dir1/none"); ok || below != 17 || m.Len() != 50 {
		e.Errorf("%d below dir1, %d in all", below, m.Len())
	}
	if n := calls.Load(); n != before {
		e.Errorf("reads of the mirror made %d calls", n-before)
	}
}

func order(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	e.put(src, "w0/1", record{N: -1})
	m := e.mirror(src)
	var mu sync.Mutex
	told := newModel[record]()
	var last kv.Revision
	m.OnChange(func(c watch.Change[record]) {
		mu.Lock()
		defer mu.Unlock()
		if err := told.change(c); err != nil {
			e.Errorf("the handler: %v", err)
		}
		if rev := c.New.Revision; s.Capabilities().Lossless && c.Old.Revision != 0 && rev != 0 {
			if rev < last {
				e.Errorf("the handler is told of revision %d after %d", rev, last)
			}
			last = rev
		}
	})
	e.write(4, 60, src, records(other)).wait()
	e.must("Sync", m.Sync(e.ctx()))
	e.same(m, src)
	e.must("Close", m.Close()) // waits for the handler
	mu.Lock()
	defer mu.Unlock()
	if err := told.has(e.state(src)); err != nil {
		e.Errorf("the handler: %v", err)
	}
}

func readYourWrites(e *env) {
	s, other := e.open(), e.open()
	src, writer := records(s), records(other)
	m := e.mirror(src)
	for i := range 40 {
		key := fmt.Sprintf("k%d", i%5)
		ent := e.put([]*kv.Typed[record]{src, writer}[i%2], key, record{N: i})
		if i%4 < 2 {
			e.must("Wait", m.Wait(e.ctx(), ent.Revision))
		} else {
			e.must("Sync", m.Sync(e.ctx()))
		}
		if got, ok := m.Get(key); !ok || !is(got, ent) {
			e.Fatalf("after write %d the mirror has %v, want %v", i, got, ent)
		}
	}
	e.del(writer, "k3")
	e.must("Sync", m.Sync(e.ctx()))
	if _, ok := m.Get("k3"); ok {
		e.Error("a key that was deleted is there")
	}
	if st := m.Status(); st.Revision == 0 || !st.Synced {
		e.Errorf("the status: %+v", st)
	}
}

// stalled has a mirror that cannot follow, with buffers that are full at once.
func stalled(e *env) {
	s, other := e.open(kv.WatchBuffer(2000)), e.open()
	src := records(other)
	e.put(src, "w0/0", record{})
	m := e.mirror(records(s))
	release := make(chan struct{})
	entered := make(chan struct{})
	first := true
	m.OnChange(func(watch.Change[record]) {
		if first {
			first = false
			close(entered)
			<-release
		}
	})
	<-entered
	lively := e.mirror(records(s)) // on the same upstream
	e.write(4, 60, src).wait()
	e.must("Sync of a mirror beside it", lively.Sync(e.ctx()))
	e.same(lively, src)
	close(release)
	e.must("Sync", m.Sync(e.ctx()))
	e.same(m, src)
}

func expiry(e *env) {
	s := e.open()
	src := records(s)
	m := e.mirror(src)
	const ttl = 2 * time.Second
	begin := time.Now()
	ent, err := src.Put(e.ctx(), "brief", record{N: 1}, kv.TTL(ttl))
	e.must("put", err)
	e.put(src, "lasting", record{N: 2})
	e.must("Wait", m.Wait(e.ctx(), ent.Revision))
	if got, ok := m.Get("brief"); !ok && time.Since(begin) < ttl || ok && got.Expires.IsZero() {
		e.Errorf("before its TTL: %v %v", got, ok)
	}
	e.eventually("the entry is gone", func() bool {
		_, ok := m.Get("brief")
		return !ok
	})
	if d := time.Since(begin); d < ttl-s.Capabilities().TTLSlack {
		e.Errorf("gone after %v", d)
	}
	if _, ok := m.Get("lasting"); !ok {
		e.Error("an entry without a TTL is gone")
	}
}

func rawAndTyped(e *env) {
	s := e.open()
	src := records(s)
	typed := e.mirror(src)
	raw, err := watch.NewMirror(e.ctx(), s.Sub("r"))
	e.must("mirror", err)
	e.Cleanup(func() { raw.Close() })
	e.write(2, 30, src).wait()
	e.must("Sync", errors.Join(typed.Sync(e.ctx()), raw.Sync(e.ctx())))
	e.same(typed, src)
	if raw.Len() != typed.Len() {
		e.Errorf("the raw mirror has %d entries, the typed one %d", raw.Len(), typed.Len())
	}
	for ent := range raw.All() {
		want, err := codec.JSON[record]().Decode(ent.Value)
		e.must("decode", err)
		if got, ok := typed.Get(ent.Key); !ok || got.Value != want || got.Revision != ent.Revision {
			e.Errorf("%v, where the raw mirror has %s at %d", got, ent.Value, ent.Revision)
		}
	}
}

func undecodable(e *env) {
	s := e.open()
	src := records(s)
	good := e.put(src, "good", record{N: 1})
	_, err := s.Put(e.ctx(), "r/bad", []byte("{"))
	e.must("put", err)
	told := make(chan error, 10)
	m := e.mirror(src, watch.OnBadValue(func(err error) { told <- err }))
	sub := m.Subscribe()
	defer sub.Close()
	if err := soon(e, "the value that does not decode", told); !isBad(err) {
		e.Errorf("told: %v", err)
	}
	if _, ok := m.Get("bad"); ok || m.Len() != 1 {
		e.Errorf("of one good and one bad value there are %d", m.Len())
	}
	broken, err := s.Put(e.ctx(), "r/good", []byte("secret{"))
	e.must("put", err)
	err = soon(e, "the second", told)
	var bad *codec.Error
	if !errors.As(err, &bad) || bad.Key != "good" || bad.Revision != uint64(broken.Revision) {
		e.Errorf("told: %v", err)
	}
	if got, _ := m.Get("good"); !is(got, good) {
		e.Errorf("the last good entry is %v, want %v", got, good)
	}
	mended := e.put(src, "bad", record{N: 2})
	e.must("Wait", m.Wait(e.ctx(), mended.Revision))
	if got, _ := m.Get("bad"); !is(got, mended) {
		e.Errorf("mended: %v", got)
	}
	known := newModel[record]()
	known.prev = true
	for !is(known.now["bad"], mended) {
		ev, err := sub.Next(e.ctx())
		e.must("subscriber", err)
		e.must("subscriber", known.observe(ev))
	}
}

func index(e *env) {
	s, other := e.open(), e.open()
	src := records(s)
	e.put(src, "before", record{Zone: "a"})
	m := e.mirror(src)
	byZone := watch.NewIndex(m, func(ent kv.Entry[record]) []string { return []string{ent.Value.Zone} })
	defer byZone.Close()
	check := func(zone string, want ...string) {
		e.Helper()
		e.must("Sync", m.Sync(e.ctx()))
		var got []string
		for ent := range byZone.Get(zone) {
			got = append(got, ent.Key)
		}
		if !slices.Equal(got, want) {
			e.Errorf("in zone %q: %q, want %q", zone, got, want)
		}
	}
	check("a", "before")
	e.put(records(other), "x", record{Zone: "a"})
	e.put(records(other), "before", record{Zone: "b"})
	check("a", "x")
	check("b", "before")
	e.del(src, "before")
	check("b")
	e.put(src, "before", record{Zone: "a"})
	check("a", "before", "x")
}

// soon fails the case unless c delivers within patience.
func soon[T any](e *env, what string, c <-chan T) T {
	e.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		e.Fatalf("%s: not within %v", what, patience)
		panic("not reached")
	}
}
