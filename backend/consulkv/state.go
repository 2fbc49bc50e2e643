package consulkv

import (
	"bytes"
	"container/heap"
	"io"
	"math"
	"slices"
	"time"

	"github.com/polykv/kv/backend"
)

// phase is what a read is compared for.
type phase uint8

const (
	quietPhase    phase = iota // take note, and tell nothing
	snapshotPhase              // tell what is there
	changePhase                // tell what changed
)

// state is what a watch has told of each name, so that the next read can be
// compared with it. It is the loop's own.
type state struct {
	s     *Store
	prev  bool // keep values
	items map[string]*item
	due   expiryHeap
	round uint32 // of reads
	stale bool   // something was seen to have changed, and is yet to be told
}

type item struct {
	create, modify uint64
	flags          uint64
	value          []byte // if prev
	round          uint32 // in which it was last seen
	status         status
}

type status uint8

const (
	told    status = iota // the reader knows that the key is there
	gone                  // it expired, which the reader was told, or need not be
	foreign               // no key
)

func newState(s *Store, prev bool) *state {
	return &state{s: s, prev: prev, items: map[string]*item{}}
}

// tell passes an event on. Those of one read are in the order of names; order
// is that of the writes, as far as it is known.
type tell func(ev backend.Event, order uint64) error

// lastOfAll is the order of deletes, of which Consul does not tell when they
// were: who has moved something is seen to have both rather than neither.
const lastOfAll = math.MaxUint64

// compare reads a list and gives the differences to tell, as it goes: what
// was told is noted at once, so if the read breaks off or tell fails, the next
// one continues where this one ended. It returns how many differences there
// were.
func (st *state) compare(body io.Reader, ph phase, tell tell) (changes int, err error) {
	d := newScanner(body)
	defer d.free()
	if err := d.list(); err != nil {
		return 0, unreadable(err)
	}
	st.round++
	st.stale = false
	now := time.Now()
	for {
		p, err := d.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return changes, unreadable(err)
		}
		it := st.items[string(p.name)]
		if it != nil && (it.status == foreign || it.modify == p.modify && it.create == p.create) {
			it.round = st.round
			continue
		}
		if it != nil && ph == snapshotPhase {
			it.round = st.round
			st.stale = true
			continue
		}
		changes++
		if err := st.changed(p, it, ph, now, tell); err != nil {
			return changes, err
		}
	}
	for name, it := range st.items {
		if it.round == st.round {
			continue
		}
		if ph == snapshotPhase {
			st.stale = true
			continue
		}
		changes++
		if it.status == told {
			if err := tell(st.deleted(name, it), lastOfAll); err != nil {
				return changes, err
			}
		}
		delete(st.items, name)
	}
	return changes, nil
}

// changed deals with one entry that is new or has changed. it is what is known
// of it, or nil.
func (st *state) changed(p *pair, it *item, ph phase, now time.Time, tell tell) error {
	name := string(p.name)
	key, ok := st.s.space.Key(name)
	if !ok {
		if it == nil {
			st.s.skip(name)
		}
		st.items[name] = &item{create: p.create, modify: p.modify, round: st.round, status: foreign}
		return nil
	}
	next := &item{create: p.create, modify: p.modify, flags: p.flags, round: st.round}
	if st.s.expired(p.flags, now) {
		next.status = gone
	}
	// What has expired without a word, and what was created anew, is told as
	// a delete of its own.
	if it != nil && it.status == told && (it.create != p.create || next.status == gone || st.s.expired(it.flags, now)) {
		if err := tell(st.deleted(name, it), p.modify); err != nil {
			return err
		}
		it.status = gone
		it.value = nil
	}
	if expiryOf(p.flags) != 0 {
		st.s.reap.add(name, p.modify, p.flags)
	}
	if next.status == told {
		value, err := p.value()
		if err != nil {
			return unreadable(err)
		}
		ev := backend.Event{Kind: backend.Created, Entry: p.found(value).entry(key)}
		switch {
		case ph == snapshotPhase:
			ev.Kind = backend.Existing
		case it != nil && it.status == told:
			ev.Kind = backend.Updated
			if st.prev {
				ev.Prev = st.before(key, it)
			}
		}
		if st.prev {
			next.value = bytes.Clone(value) // the event's value becomes the reader's
		}
		if ph != quietPhase {
			if err := tell(ev, p.modify); err != nil {
				return err
			}
		}
		if expiryOf(p.flags) != 0 {
			heap.Push(&st.due, due{time.UnixMilli(expiryOf(p.flags)).Add(st.s.o.ClockSkew), name, p.modify})
		}
	}
	st.items[name] = next
	if len(st.due) > 2*len(st.items)+minDue {
		st.prune()
	}
	return nil
}

// minDue is how many times of expiry are kept in any case.
const minDue = 64

// prune drops the times of expiry that a later write has replaced: keys that are
// renewed long before they expire would else pile them up.
func (st *state) prune() {
	st.due = slices.DeleteFunc(st.due, func(d due) bool {
		it := st.items[d.name]
		return it == nil || it.modify != d.modify
	})
	heap.Init(&st.due)
}

func (st *state) before(key string, it *item) *backend.Entry {
	e := found{it.value, it.flags, it.create, it.modify, ""}.entry(key)
	return &e
}

func (st *state) deleted(name string, it *item) backend.Event {
	key, _ := st.s.space.Key(name)
	ev := backend.Event{Kind: backend.Deleted, Entry: backend.Entry{Key: key}}
	if st.prev {
		ev.Prev = st.before(key, it)
	}
	return ev
}

// nextExpiry is how long it is until an entry expires.
func (st *state) nextExpiry() time.Duration {
	if len(st.due) == 0 {
		return time.Hour
	}
	return time.Until(st.due[0].at)
}

// expire tells of the entries that have expired. It reports false if tell does.
func (st *state) expire(tell func(backend.Event) bool) bool {
	now := time.Now()
	for len(st.due) > 0 && !st.due[0].at.After(now) {
		d := heap.Pop(&st.due).(due)
		it := st.items[d.name]
		if it == nil || it.modify != d.modify || it.status != told {
			continue
		}
		if !tell(st.deleted(d.name, it)) {
			return false
		}
		it.status, it.value = gone, nil
	}
	return true
}

// due is when one state of an entry expires.
type due struct {
	at     time.Time
	name   string
	modify uint64
}

type expiryHeap []due

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *expiryHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = due{}
	*h = old[:len(old)-1]
	return d
}
