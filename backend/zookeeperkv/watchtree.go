package zookeeperkv

import (
	"cmp"
	"slices"

	"github.com/polykv/kv/backend"
)

// known is what a watch remembers of a node.
type known struct {
	czxid, mzxid int64
	live         bool           // a key for everybody to see
	children     []string       // names that were listed, or were and are not known to be gone
	prev         *backend.Entry // with WatchOptions.Prev
}

// apply compares what was read with what is known. Data come before children: a name that is listed although its node
// was gone a moment before has to be taken for a new one.
func (w *watch) apply(results []result) {
	var events []backend.Event
	var again []job
	for _, r := range results {
		if r.job.bits&dataBit == 0 {
			continue
		}
		k := w.nodes[r.job.path]
		if k == nil {
			continue
		}
		if !r.job.value && r.isKey() && (r.stat.Mzxid != k.mzxid || !k.live) && w.s.live(r.record) {
			delete(w.light, r.job.path)
			again = append(again, job{path: r.job.path, bits: dataBit, first: r.job.first})
			continue
		}
		events = w.compare(events, k, r)
		if !r.exists && !w.o.Key {
			w.forget(r.job.path)
		}
	}
	w.giveBack(again)
	for _, r := range results {
		if r.job.bits&childBit == 0 || r.job.path != w.dir && w.nodes[r.job.path] == nil {
			continue
		}
		w.giveBack(w.grow(r))
	}
	// In the order of their revisions, the deletes first: their revisions are not known.
	slices.SortStableFunc(events, func(a, b backend.Event) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, e := range events {
		w.push(e)
	}
}

// compare appends the events that lead from what is known to what was read.
func (w *watch) compare(events []backend.Event, k *known, r result) []backend.Event {
	old := *k
	w.remember(k, r)
	switch {
	case old.live && k.live && old.mzxid == k.mzxid:
	case old.live && k.live && old.czxid == k.czxid:
		events = append(events, backend.Event{Kind: backend.Updated, Entry: w.entry(r), Prev: old.prev})
	default:
		if old.live {
			events = append(events, w.deleted(r.job.path, &old))
		}
		if k.live {
			events = append(events, backend.Event{Kind: backend.Created, Entry: w.entry(r)})
		}
	}
	return events
}

func (w *watch) deleted(path string, k *known) backend.Event {
	key, _ := w.s.canonical(path)
	return backend.Event{Kind: backend.Deleted, Entry: backend.Entry{Key: key}, Prev: k.prev}
}

func (w *watch) entry(r result) backend.Entry {
	key, _ := w.s.canonical(r.job.path)
	e := r.entry(key)
	e.Value = r.data
	return e
}

// remember makes k what was read.
func (w *watch) remember(k *known, r result) {
	k.czxid, k.mzxid, k.live = r.stat.Czxid, r.stat.Mzxid, w.s.live(r.record)
	k.prev = nil
	if k.live && w.o.Prev {
		e := w.entry(r)
		e.Value = slices.Clone(e.Value)
		k.prev = &e
	}
	if k.live && r.stamp != nil {
		w.expiring[r.job.path] = r.stamp.expires
	} else {
		delete(w.expiring, r.job.path)
	}
}

// grow compares a directory with the names that were read, and returns what is new in it.
func (w *watch) grow(r result) []job {
	k := w.nodes[r.job.path]
	if k == nil {
		if r.job.path != w.dir {
			return nil
		}
		k = &known{}
		w.nodes[w.dir] = k
	}
	slices.Sort(r.names)
	listed := r.names
	for _, name := range k.children {
		if _, found := slices.BinarySearch(r.names, name); found {
			continue
		}
		// The list may be older than what is known of the node: only the node itself can say that it is gone.
		if path := join(r.job.path, name); w.nodes[path] != nil {
			listed = append(listed, name)
			w.giveBack([]job{{path: path, bits: dataBit | childBit, first: r.job.first}})
		}
	}
	k.children = listed
	var jobs []job
	for _, name := range listed {
		path := join(r.job.path, name)
		if w.nodes[path] != nil {
			continue
		}
		if _, ok := w.s.canonical(path); !ok {
			continue
		}
		w.nodes[path] = &known{}
		w.l.hub.join(path, w)
		jobs = append(jobs, job{path: path, bits: dataBit | childBit, first: r.job.first})
	}
	return jobs
}

// forget drops a node that was not there when it was read. What was below it has watches of its own.
func (w *watch) forget(path string) {
	delete(w.nodes, path)
	delete(w.expiring, path)
	w.l.hub.leave(path, w)
}
