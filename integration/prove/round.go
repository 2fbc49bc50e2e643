package prove

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
)

// A Round is one run of clients on a target under one fault.
type Round struct {
	Target  *Target
	Fault   Fault
	Seed    uint64
	Ops     int           // at least so many operations that the store took part in
	Cycles  int           // at least so many injections
	Longest time.Duration // the round ends then, whatever it has reached; 0: a minute
	Clients int           // 0: 5
	Dir     string        // for pictures
	// Stay leaves the second watch open where the store merges events. Opened again beside writers there, it may tell of a
	// key that was made anew without a Deleted before: a known defect of the library (see docs/proof.md).
	Stay bool
	Log  func(format string, args ...any)

	hasty  atomic.Bool
	ops    atomic.Int64
	mu     sync.Mutex
	faults map[string]int
}

// pace is how many operations a second a round makes at most, so that faults meet operations.
const pace = 700

// A Result is what came of a round.
type Result struct {
	Ops, Refused int            // operations, and those that the store never got
	Faults       map[string]int // injections
	Watches      int            // that were judged
	Events       int            // that they told
	Mended       int            // watches that were resynchronised because the store had forgotten
	Locks        int            // that were held
	Fenced       int            // writes under them
	Late         int            // writes of former holders that were refused
	Violations   []Violation
	Exempt       []Violation // what the fault's exemption excuses
	Took         time.Duration
	Skipped      string // why the fault cannot be injected on this machine
}

func (r *Round) name() string {
	return fmt.Sprintf("%s-%s-%x", r.Target.Name, r.Fault.Name, r.Seed)
}

func (r *Round) count(fault string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.faults == nil {
		r.faults = map[string]int{}
	}
	r.faults[fault] += n
}

// Run makes the round. An error means that the rig failed, not the library.
func (r *Round) Run(ctx context.Context) (res Result, err error) {
	if r.Clients == 0 {
		r.Clients = 5
	}
	if r.Longest == 0 {
		r.Longest = time.Minute
	}
	if r.Fault.run != nil {
		return r.Fault.run(ctx, r)
	}
	start := time.Now()
	dir := "r" + strconv.FormatUint(r.Seed, 36)
	var links []*link
	var wg sync.WaitGroup
	defer func() {
		closing := make(chan error, 1)
		go func() {
			var errs []error
			for _, l := range links {
				errs = append(errs, l.Close())
			}
			closing <- errors.Join(errs...)
		}()
		select {
		case e := <-closing:
			err = errors.Join(err, e)
		case <-time.After(30 * time.Second):
			err = errors.Join(err, errors.New("clients do not close within 30 s"))
		}
		res.Took = time.Since(start)
	}()
	// The last two are for watches and for what comes after the faults.
	for i := range r.Clients + 2 {
		l, err := r.Target.connect(ctx, i)
		if err != nil {
			return res, err
		}
		links = append(links, l)
	}
	if err := eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		for _, l := range links {
			if err := l.Ping(ctx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return res, fmt.Errorf("before the round: %w", err)
	}
	caps := links[0].Capabilities()
	h := newHistory()
	run := &running{Round: r, h: h, caps: caps, links: links, dir: dir}
	if err := run.watch(ctx); err != nil {
		return res, err
	}

	working, stop := context.WithTimeout(ctx, r.Longest)
	defer stop()
	clients := run.work(working, &wg, func(i int) caller { return storeCaller{links[i].Store} })
	reg := run.contend(working, &wg)
	cycles, ferr := run.nemesis(working, stop)
	stop()
	wg.Wait()
	if ferr != nil {
		run.abandon()
		return res, fmt.Errorf("the fault %s: %w", r.Fault.Name, ferr)
	}
	if r.Log != nil {
		r.Log("%s: %d injections, %d operations in %v", r.name(), cycles, r.ops.Load(), time.Since(start).Round(time.Millisecond))
	}
	final, err := run.finish(ctx)
	if err != nil {
		return res, err
	}
	run.judge(&res, clients, reg, final)
	return res, run.clean(ctx)
}

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
		if r.Stay && !r.caps.Lossless {
			w.every = 0
		}
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

// finish waits until the store serves again and the watches have told everything, and reads what is there.
func (r *running) finish(ctx context.Context) (map[string]Cell, error) {
	defer r.watching.Wait()
	defer r.unwatch()
	final := r.read(ctx, newClient(r.Clients+1, r.Seed, storeCaller{r.links[r.Clients+1].Store}, r.h, r.dir))
	if e, err := r.links[r.Clients+1].Get(ctx, r.dir+"/register"); err == nil {
		final[e.Key] = cellOf(e)
	}
	for _, w := range r.watchers {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		if err := w.finish(ctx); err != nil {
			r.h.fail("%v", err)
		}
		cancel()
	}
	return final, nil
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
