package prove

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
)

// judge looks at everything that was recorded.
func (r *running) judge(res *Result, clients []*client, reg *register, final map[string]Cell) {
	j := &judge{name: r.name(), dir: r.Dir, patience: 30 * time.Second, h: r.h}
	ops := r.h.settled()
	// What a lossless watch told leaves one order only, which is found at once.
	if told := r.told(); told != nil && r.Fault.Exempt == "" {
		j.asTold(ops, told)
	} else {
		j.linearizable(ops)
	}
	if err := inOrder(ops); err != nil {
		j.add("%v", err)
	}
	if r.Fault.Exempt == exemptReads && len(j.found) > 0 {
		res.Exempt, j.found = j.found, nil
		j.name += "-without-reads"
		j.unchecked = nil
		j.linearizable(withoutReads(ops))
	}
	if err := tokensGrow(reg.holds); err != nil {
		j.add("%v", err)
	}
	if err := fencedInOrder(reg.writes); err != nil {
		j.add("%v", err)
	}
	for _, w := range r.watchers {
		res.Watches += w.opened
		res.Events += len(w.events)
		if w.mended {
			res.Mended++
		}
		if err := w.converged(final); err != nil {
			j.add("%v", err)
		}
		if w.mended {
			continue // it told the end, and not all of the way
		}
		if err := fencedInOrder(fencedOf(w.events, reg.key)); err != nil {
			j.add("%s: %v", w.name, err)
		}
		if err := w.v.Complete(ownChanges(clients)); err != nil {
			j.add("%s: %v", w.name, err)
		}
		if told := r.told(); told != nil && !sameChanges(told, w.events) {
			j.add("%s tells other changes than %s", w.name, r.watchers[0].name)
		}
	}
	recorded, refused := r.h.count()
	r.h.mu.Lock()
	for _, p := range r.h.problems {
		j.add("%s", p)
	}
	r.h.mu.Unlock()
	res.Ops, res.Refused = recorded+len(reg.writes)+reg.refused, refused
	res.Locks, res.Fenced, res.Late = len(reg.holds), len(reg.writes), reg.refused
	r.mu.Lock()
	res.Faults = maps.Clone(r.faults)
	r.mu.Unlock()
	res.Unchecked = j.unchecked
	if r.Fault.Exempt == exemptAll {
		res.Exempt = j.found
		return
	}
	res.Violations = j.found
}

// told is what a lossless watch told of the whole round, if it did.
func (r *running) told() []backend.Event {
	if w := r.watchers[0]; r.caps.Lossless && !w.mended {
		return w.events
	}
	return nil
}

// sameChanges compares what two watches told of changes.
func sameChanges(a, b []backend.Event) bool {
	changes := func(events []backend.Event) []backend.Event {
		return slices.DeleteFunc(slices.Clone(events), func(ev backend.Event) bool { return ev.Key == "" })
	}
	return slices.EqualFunc(changes(a), changes(b), func(a, b backend.Event) bool {
		return a.Kind == b.Kind && a.Key == b.Key && a.Revision == b.Revision && string(a.Value) == string(b.Value)
	})
}

// fencedOf are the writes of a register that a watch told.
func fencedOf(events []backend.Event, key string) (out []fenced) {
	for _, ev := range events {
		if ev.Key != key || ev.Kind == backend.Deleted {
			continue
		}
		text, _, _ := strings.Cut(string(ev.Value), "/")
		if token, err := strconv.ParseUint(text, 10, 64); err == nil {
			out = append(out, fenced{ev.Revision, token})
		}
	}
	return out
}

// ownChanges are those of the keys that have one writer.
func ownChanges(clients []*client) (out []backendtest.Change) {
	for _, c := range clients {
		for _, ch := range c.own {
			w := ch.in.Writes[0]
			out = append(out, backendtest.Change{
				Key: ch.in.key(w.Slot), Delete: w.Delete, Value: []byte(w.Value), Revision: ch.out.Revision, Uncertain: ch.out.Status == open,
			})
		}
	}
	return out
}
