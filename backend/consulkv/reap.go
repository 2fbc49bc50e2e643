package consulkv

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// reaper deletes entries that have expired: those that this Store wrote, and
// those that it met while reading or watching. Whoever comes first does it; a
// delete at the expired entry's own index can do no harm. Nothing but tidiness
// depends on it, since every read looks at the expiry itself.
type reaper struct {
	s       *Store
	mu      sync.Mutex
	due     dueHeap
	byName  map[string]*dueItem
	wake    chan struct{}
	running bool
	denied  bool // the token must not delete
	foreign bool // it must not delete what others wrote
}

type dueItem struct {
	name  string
	index uint64
	at    time.Time
	own   bool // this Store wrote it
	pos   int
}

const (
	maxDue  = 1 << 17 // entries beyond are left to whoever meets them
	reapLot = 32      // deletes in one transaction
)

func (r *reaper) init(s *Store) {
	r.s = s
	r.byName = map[string]*dueItem{}
	r.wake = make(chan struct{}, 1)
}

// add has an entry that was met deleted when it has expired. It does nothing for
// one that does not expire.
func (r *reaper) add(name string, index, flags uint64) { r.schedule(name, index, flags, false) }

// addOwn is add for an entry that this Store wrote.
func (r *reaper) addOwn(name string, index, flags uint64) { r.schedule(name, index, flags, true) }

func (r *reaper) schedule(name string, index, flags uint64, own bool) {
	ms := expiryOf(flags)
	if ms == 0 {
		return
	}
	// Jitter, because everybody who saw the entry waits for the same moment.
	at := time.UnixMilli(ms).Add(r.s.o.ClockSkew + rand.N(500*time.Millisecond))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied || r.foreign && !own {
		return
	}
	if it := r.byName[name]; it != nil {
		switch {
		case it.index < index:
			it.index, it.at, it.own = index, at, own
			heap.Fix(&r.due, it.pos)
		case it.index == index:
			it.own = it.own || own
		}
	} else if len(r.due) < maxDue {
		it := &dueItem{name: name, index: index, at: at, own: own}
		heap.Push(&r.due, it)
		r.byName[name] = it
	}
	if !r.running {
		r.running = r.s.spawn(r.run)
	}
	if r.due[0].name == name {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

func (r *reaper) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var wait backoff.Backoff
	for {
		lot, next := r.take()
		if len(lot) > 0 {
			err := r.delete(r.s.ctx, lot)
			switch {
			case errors.Is(err, backend.ErrPermission):
				r.deny(err, lot)
			case err != nil && !errors.Is(err, backend.ErrUncertain):
				r.putBack(lot)
				if !wait.Wait(r.s.ctx) {
					return
				}
			default:
				wait.Reset()
			}
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-r.s.ctx.Done():
			return
		}
	}
}

// take returns what is due, and otherwise how long to wait.
func (r *reaper) take() (lot []*dueItem, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for len(r.due) > 0 && len(lot) < reapLot && !r.due[0].at.After(now) {
		it := heap.Pop(&r.due).(*dueItem)
		delete(r.byName, it.name)
		lot = append(lot, it)
	}
	if len(r.due) == 0 {
		return lot, time.Hour
	}
	return lot, r.due[0].at.Sub(now)
}

func (r *reaper) putBack(lot []*dueItem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, it := range lot {
		if r.byName[it.name] == nil {
			heap.Push(&r.due, it)
			r.byName[it.name] = it
		}
	}
}

// deny takes note that the token must not delete lot. It may have the right to
// what this Store wrote all the same: of those that have it nobody may have the
// right to everything, and what they write must go.
func (r *reaper) deny(err error, lot []*dueItem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.foreign = true; !slices.ContainsFunc(lot, func(it *dueItem) bool { return !it.own }) {
		r.denied = true
		r.due, r.byName = nil, map[string]*dueItem{}
		r.s.o.Logger.Warn("consulkv: expired entries stay, invisible, until somebody with the right deletes them", "err", err)
		return
	}
	r.s.o.Logger.Warn("consulkv: expired entries that others wrote are left to them", "err", err)
	kept := dueHeap{}
	clear(r.byName)
	for _, it := range append(lot, r.due...) {
		if it.own && r.byName[it.name] == nil {
			heap.Push(&kept, it)
			r.byName[it.name] = it
		}
	}
	r.due = kept
}

// delete removes those entries of lot that are still at their index.
func (r *reaper) delete(ctx context.Context, lot []*dueItem) error {
	for len(lot) > 0 {
		var ops []txnOp
		for _, it := range lot {
			ops = append(ops, checkIndex(it.name, it.index), txnOp{kvOp{Verb: verbDelete, Key: it.name}})
		}
		o, err := r.s.apply(ctx, ops)
		if err != nil || o.ok() {
			return err
		}
		changed := map[int]bool{}
		for _, op := range o.failed {
			changed[op/2] = true
		}
		rest := make([]*dueItem, 0, len(lot))
		for i, it := range lot {
			if !changed[i] {
				rest = append(rest, it)
			}
		}
		lot = rest
	}
	return nil
}

// dueHeap is a heap of items by time.
type dueHeap []*dueItem

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}
func (h *dueHeap) Push(x any) {
	it := x.(*dueItem)
	it.pos = len(*h)
	*h = append(*h, it)
}
func (h *dueHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}
