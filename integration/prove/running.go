package prove

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// running is a round while it runs.
type running struct {
	*Round
	h        *history
	caps     backend.Capabilities
	links    []*link
	dir      string
	watchers []*watcher
	unwatch  context.CancelFunc
	watching sync.WaitGroup
}

// watch opens the round's watches before there is anything to see. One of them stays; another is closed and resumed, or
// opened again, on one client after the other.
func (r *running) watch(ctx context.Context) error {
	ctx, r.unwatch = context.WithCancel(ctx)
	for _, w := range []*watcher{
		{name: "the watch that stays", links: r.links[r.Clients : r.Clients+1]},
		{name: "the watch that is opened again", links: r.links[:r.Clients+1], every: 40},
	} {
		w.prefix, w.caps, w.h, w.forget = r.dir, r.caps, r.h, r.Fault.Forgets || r.Fault.Exempt == exemptAll
		if err := w.begin(ctx); err != nil {
			r.abandon()
			return fmt.Errorf("%s: %w", w.name, err)
		}
		r.watchers = append(r.watchers, w)
		r.watching.Go(func() { w.run(ctx) })
	}
	for _, w := range r.watchers {
		select {
		case <-w.synced:
		case <-time.After(20 * time.Second):
			r.abandon()
			return fmt.Errorf("%s does not tell its snapshot", w.name)
		}
	}
	return nil
}

// abandon ends the watches of a round that is over early.
func (r *running) abandon() {
	r.unwatch()
	r.watching.Wait()
}

// work starts the clients.
func (r *running) work(ctx context.Context, wg *sync.WaitGroup, of func(int) caller) []*client {
	var clients []*client
	every := time.Duration(r.Clients) * time.Second / pace
	for i := range r.Clients {
		c := newClient(i, r.Seed, of(i), r.h, r.dir)
		c.list, c.hasty = r.caps.SnapshotList, r.hasty.Load
		clients = append(clients, c)
		wg.Go(func() {
			next := time.Now()
			for ctx.Err() == nil {
				wait := 10 * time.Millisecond // the store is away
				if c.one(context.WithoutCancel(ctx)) {
					r.ops.Add(1)
					next = next.Add(every)
					wait = time.Until(next)
				}
				if wait < -time.Second {
					next = time.Now() // what was missed is not made up for
				}
				if wait > 0 {
					select {
					case <-ctx.Done():
					case <-time.After(wait):
					}
				}
			}
		})
	}
	return clients
}

// contend starts those who want the lock.
func (r *running) contend(ctx context.Context, wg *sync.WaitGroup) *register {
	reg := &register{key: r.dir + "/register", lock: r.dir, h: r.h}
	for i := range min(3, r.Clients) {
		rng := rand.New(rand.NewPCG(r.Seed, 100+uint64(i)))
		wg.Go(func() { reg.contend(ctx, r.links[i], rng) })
	}
	return reg
}

// nemesis injects the fault until the round has done enough, and leaves everything healed.
func (r *running) nemesis(ctx context.Context, stop func()) (cycles int, err error) {
	defer stop()
	f := &field{rng: rand.New(rand.NewPCG(r.Seed, 1000)), t: r.Target, links: r.links[:min(r.Clients+1, len(r.links))], round: r.Round, dir: []byte(r.dir)}
	pause := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for ctx.Err() == nil && (int(r.ops.Load()) < r.Ops || cycles < r.Cycles) {
		if r.Fault.inject == nil {
			pause(20 * time.Millisecond)
			cycles++
			continue
		}
		pause(between(f.rng, r.Fault.Rest))
		begun := r.h.now()
		// Whatever has begun is ended, also when the round's time is over.
		whole := context.WithoutCancel(ctx)
		what, heal, err := r.Fault.inject(whole, f)
		if err != nil {
			return cycles, err
		}
		pause(between(f.rng, r.Fault.Hold))
		healing, cancel := context.WithTimeout(whole, time.Minute)
		err = heal(healing)
		cancel()
		if err != nil {
			return cycles, fmt.Errorf("healing: %w", err)
		}
		r.h.annotate(what, begun, r.h.now())
		r.count(r.Fault.Name, 1)
		cycles++
	}
	return cycles, nil
}

// finish waits until the store serves again and the watches have told everything, and reads what is there. A write whose
// reply was lost may still come: what counts is what the store held both before and after the watches told all of it.
func (r *running) finish(ctx context.Context) (final map[string]Cell, err error) {
	defer r.watching.Wait()
	defer r.unwatch()
	l := r.links[r.Clients+1]
	last := newClient(r.Clients+1, r.Seed, storeCaller{l.Store}, r.h, r.dir)
	const patience = 20 * time.Second // beyond the seconds for which an agent of Consul repeats a write
	for end := time.Now().Add(patience); ; {
		now := r.read(ctx, last)
		if e, err := l.Get(ctx, r.dir+"/register"); err == nil {
			now[e.Key] = cellOf(e)
		}
		if final != nil && maps.Equal(now, final) || time.Now().After(end) {
			return now, nil
		}
		final = now
		for _, w := range r.watchers {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			err := w.finish(ctx)
			cancel()
			if err != nil {
				r.h.fail("%v", err)
				return final, nil
			}
		}
	}
}

// read reads what is there at the end.
func (r *running) read(ctx context.Context, last *client) map[string]Cell {
	final := map[string]Cell{}
	for _, fam := range []struct {
		name string
		keys int
	}{{famShared, sharedKeys}, {famTxn, txnKeys}, {famOwn, r.Clients}} {
		for slot := range fam.keys {
			in := Input{Op: opGet, Dir: r.dir, Family: fam.name, Reads: []int{slot}}
			if err := eventually(ctx, time.Minute, func(ctx context.Context) error {
				out := last.make(ctx, in, 5*time.Second)
				if out.Status != done {
					return errors.New(out.Reason)
				}
				if out.Cells[0].Revision != 0 {
					final[in.key(slot)] = out.Cells[0]
				}
				return nil
			}); err != nil {
				r.h.fail("the store does not come back: %v", err)
				return final
			}
		}
	}
	return final
}

// clean removes what the round wrote.
func (r *running) clean(ctx context.Context) error {
	return eventually(ctx, time.Minute, func(ctx context.Context) error {
		_, err := r.links[r.Clients+1].DeletePrefix(ctx, r.dir)
		return err
	})
}

// eventually repeats f until it succeeds or the time is over.
func eventually(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, kv.ErrClosed) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
