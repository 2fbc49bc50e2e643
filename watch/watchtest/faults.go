package watchtest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/watch"
)

// Fault is something that R20 names, done to a server that is the test's own.
type Fault struct {
	Name string
	// Open opens a client that the fault strikes, Writer one that it leaves
	// alone as far as it can: both of the same keys below root.
	Open, Writer func(t testing.TB, root string) backend.Store
	// Begin begins the fault, and End ends it. Between them, while it lasts,
	// Writer's clients go on.
	Begin, End func(t testing.TB, root string)
	// Cuts says that between Begin and End the clients of Open do not reach
	// the server: a mirror has to tell so.
	Cuts bool
}

// RunFault has a mirror, and all that is built on it, live through a fault
// beside eight writers.
func RunFault(t *testing.T, f Fault) {
	t.Run("R20/a mirror repairs itself after "+f.Name, func(t *testing.T) {
		newEnv(t, f.Writer).survives(f)
	})
}

func (e *env) survives(f Fault) {
	s := e.openBy(f.Open)
	src := records(s)
	writer := records(e.open())
	for i := range 20 {
		e.put(writer, fmt.Sprintf("kept/%02d", i), record{N: i, Zone: "z"})
	}
	m := e.mirror(src)
	byZone := watch.NewIndex(m, func(ent kv.Entry[record]) []string { return []string{ent.Value.Zone} })
	defer byZone.Close()
	v, err := watch.NewValue(e.ctx(), src, "kept/00", record{})
	e.must("value", err)
	defer v.Close()
	var mu sync.Mutex
	told, most := newModel[record](), 0
	m.OnChange(func(c watch.Change[record]) {
		mu.Lock()
		defer mu.Unlock()
		if err := told.change(c); err != nil {
			e.Errorf("the handler: %v", err)
		}
		if most = max(most, len(told.now)); most >= 20 && len(told.now) < 10 {
			e.Errorf("the mirror went down to %d entries: it was rebuilt", len(told.now))
		}
	})
	subscribe := func(name string, buffer int) *follower {
		known := newModel[record]()
		known.prev = true
		return e.follow(name, m.Subscribe(watch.Buffer(buffer)), known)
	}
	all := []*follower{subscribe("a subscriber", 1024), subscribe("a slow subscriber", 1)}
	shared, err := src.Watch(e.ctx(), "", kv.FromSnapshot())
	e.must("watch", err)
	all = append(all, e.follow("a watch", shared, newModel[record]()))

	writing := e.write(8, 0, writer, records(e.open()))
	e.eventually("writers are at it", func() bool { return m.Len() > 30 })
	f.Begin(e.T, e.root)
	if f.Cuts {
		e.eventually("the mirror tells that it is cut off", func() bool { return m.Lag() > 0 })
		if _, ok := m.Get("kept/01"); !ok {
			e.Error("the mirror is empty while it is cut off")
		}
	}
	// What a mirror has to find out afterwards: a delete, an update, a key that
	// went and came, a new one.
	change := func(what string, f func() error) {
		e.Helper()
		e.eventually(what, func() bool {
			err := f()
			if err != nil && !survivable(err) {
				e.Fatalf("%s: %v", what, err)
			}
			return err == nil || what == "delete" && !isUnknown(err)
		})
	}
	put := func(key string, r record) {
		e.Helper()
		change("put", func() error { _, err := writer.Put(e.ctx(), key, r); return err })
	}
	del := func(key string) {
		e.Helper()
		change("delete", func() error { return writer.Delete(e.ctx(), key) })
	}
	meanwhile := func() {
		put("kept/00", record{N: 100})
		del("kept/01")
		del("kept/02")
		put("kept/02", record{N: 102, Zone: "other"})
		put("new", record{N: 1})
	}
	if f.Cuts {
		meanwhile()
	}
	f.End(e.T, e.root)
	if !f.Cuts {
		meanwhile()
	}
	writing.halt()
	end := e.settle(writer, "end")
	e.eventually("the mirror is back", func() bool {
		return m.Lag() == 0 && m.Status().Synced && m.Wait(e.ctx(), end.Revision) == nil && m.Status().Synced
	})
	e.same(m, writer)
	e.arrive(writer, all...)
	e.must("Sync of the value", v.Sync(e.ctx()))
	if got := v.Load(); got.N != 100 {
		e.Errorf("the value is %v", got)
	}
	zone := 0
	for ent := range byZone.Get("other") {
		if zone++; ent.Key != "kept/02" {
			e.Errorf("the index has %v", ent)
		}
	}
	if zone != 1 {
		e.Errorf("the index has %d of one", zone)
	}
	if m.Err() != nil || v.Err() != nil {
		e.Errorf("ended: %v, %v", m.Err(), v.Err())
	}
	if st := m.Status(); !st.DisconnectedSince.IsZero() || time.Since(st.LastContact) > patience {
		e.Errorf("the status afterwards: %+v", st)
	}
	e.must("Close", m.Close())
	mu.Lock()
	defer mu.Unlock()
	if err := told.has(e.state(writer)); err != nil {
		e.Errorf("the handler: %v", err)
	}
}
