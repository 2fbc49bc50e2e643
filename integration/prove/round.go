package prove

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
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
	Log     func(format string, args ...any)

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
	Unchecked    []Violation // histories that nobody can judge in time
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
	if r.Fault.needsNetworks && r.Target.together != "" {
		return Result{Skipped: r.Target.together}, nil
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
