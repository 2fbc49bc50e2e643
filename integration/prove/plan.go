package prove

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/polykv/kv/internal/testserver"
)

// An Opener starts a target.
type Opener struct {
	Name  string // as the target's
	Store string
	Open  func(context.Context) (*Target, error)
}

// Openers are all targets, store by store.
func Openers() []Opener {
	of := func(f func(context.Context, int) (*Target, error), nodes int) func(context.Context) (*Target, error) {
		return func(ctx context.Context) (*Target, error) { return f(ctx, nodes) }
	}
	return []Opener{
		{"memory", "memory", Memory},
		{"bolt", "bolt", Bolt},
		{"etcd", "etcd", of(Etcd, 1)},
		{"etcd, 3 nodes", "etcd", of(Etcd, 3)},
		{"consul", "consul", of(Consul, 1)},
		{"consul, 3 nodes", "consul", of(Consul, 3)},
		{"zookeeper", "zookeeper", of(ZooKeeper, 1)},
		{"zookeeper, 3 nodes", "zookeeper", of(ZooKeeper, 3)},
		{"redis", "redis", Redis},
		{"redis, sentinel", "redis", RedisSentinel},
		{"redis, cluster", "redis", RedisCluster},
	}
}

// A Plan says what is to be proved.
type Plan struct {
	Stores []string      // nil: all
	Faults []string      // by name, on targets that have them; nil: all
	Ops    int           // for each store, over all its targets
	Round  int           // operations of one round; 0: 2,500
	Soak   time.Duration // for each store; 0: none
	Seed   uint64
	Until  time.Time // no round begins after it; zero: all are made
	Dir    string    // for pictures of what is wrong
	Log    func(format string, args ...any)
}

// Tally is what came of all rounds of a target.
type Tally struct {
	Target, Store, Version string
	Result
	Skipped map[string]string // faults that this machine does not allow, and why
	Rounds  int
	Soak    string // in words
	Found   string // what the checker found where it had to, in words
	Err     error  // of the rig
}

// Run does all of the plan, the stores beside each other: most of the time they wait for servers that are being killed.
// Only the end of ctx ends it early; what fails is in the tallies.
func (p *Plan) Run(ctx context.Context) []Tally {
	if p.Round == 0 {
		p.Round = 2500
	}
	all := slices.DeleteFunc(Openers(), func(o Opener) bool { return p.Stores != nil && !slices.Contains(p.Stores, o.Store) })
	targets := map[string]int{}
	for _, o := range all {
		targets[o.Store]++
	}
	out := make([]Tally, len(all))
	began := time.Now()
	var wg sync.WaitGroup
	for store, n := range targets {
		wg.Go(func() {
			done, left := 0, n
			for i, o := range all {
				if o.Store != store {
					continue
				}
				share := p.Ops / n
				var until time.Time
				if !p.Until.IsZero() {
					until = time.Now().Add(time.Until(p.Until) / time.Duration(left))
				}
				left--
				out[i] = p.target(ctx, o, share, until, func(ops int) time.Duration {
					now := max(done+ops, 1)
					left := time.Duration(float64(time.Since(began)) / float64(now) * float64(p.Ops-now))
					return max(left, 0).Round(time.Second)
				})
				done += out[i].Ops
			}
		})
	}
	wg.Wait()
	begun := map[string]bool{}
	for i, o := range all {
		if p.Soak > 0 && !begun[o.Store] && ctx.Err() == nil {
			begun[o.Store] = true
			wg.Go(func() { p.soak(ctx, o, &out[i]) })
		}
	}
	wg.Wait()
	return out
}

// soak soaks the first target of a store.
func (p *Plan) soak(ctx context.Context, o Opener, t *Tally) {
	p.Log("%-20s soak of %v begins", o.Name, p.Soak)
	s, err := soakAlone(ctx, o.Name, p.Soak)
	if errors.Is(err, testserver.ErrUnavailable) {
		return // as before, and told
	}
	if err != nil {
		t.Violations = append(t.Violations, Violation{What: fmt.Sprintf("soak: %v", err)})
	}
	t.Soak = s.String()
	p.Log("%-20s soak of %v: %s (%v)", o.Name, p.Soak, t.Soak, err)
}

// target makes the rounds of one target, each fault in turn, until share operations were made and each fault was there, or
// the time is over.
func (p *Plan) target(ctx context.Context, o Opener, share int, until time.Time, left func(int) time.Duration) (t Tally) {
	t.Target, t.Store = o.Name, o.Store
	target, err := o.Open(ctx)
	if err != nil {
		t.Err = err
		p.Log("%s: %v", o.Name, err)
		return t
	}
	defer func() { t.Err = errors.Join(t.Err, target.Close()) }()
	t.Version = target.Version
	rng := rand.New(rand.NewPCG(p.Seed, uint64(len(o.Name))))
	t.Faults, t.Skipped = map[string]int{}, map[string]string{}
	for _, f := range target.Faults {
		if f.inject != nil || f.run != nil {
			t.Faults[f.Name] = 0
		}
	}
	faults := slices.DeleteFunc(slices.Clone(target.Faults), func(f Fault) bool { return p.Faults != nil && !slices.Contains(p.Faults, f.Name) })
	if len(faults) == 0 {
		return t
	}
	rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	over := func() bool { return !until.IsZero() && time.Now().After(until) }
	for i := 0; ctx.Err() == nil && !over() && (t.Ops < share || i < len(faults)); i++ {
		f := faults[i%len(faults)]
		r := &Round{Target: target, Fault: f, Seed: rng.Uint64() >> 24, Ops: p.Round, Cycles: 2, Longest: 90 * time.Second, Dir: p.Dir}
		res, err := r.Run(ctx)
		t.add(res)
		p.Log("%-20s %-24s seed %-12d %5d operations, %6d of %d, %v left for the store: %s", o.Name, f.Name, r.Seed, res.Ops, t.Ops, share, left(t.Ops), verdict(res, err))
		if res.Skipped != "" && i < len(faults) {
			t.Skipped[f.Name] = res.Skipped
			t.Err = errors.Join(t.Err, fmt.Errorf("%s: %w: %s", f.Name, testserver.ErrUnavailable, res.Skipped))
		}
		if err != nil {
			t.Err = errors.Join(t.Err, fmt.Errorf("%s (seed %d): %w", f.Name, r.Seed, err))
			if t.Rounds > 3 && t.Ops == 0 {
				break
			}
		}
	}
	if target.find != nil && p.Faults == nil && ctx.Err() == nil {
		found, err := target.find(ctx, p)
		if err != nil {
			t.Violations = append(t.Violations, Violation{What: fmt.Sprintf("the checker does not find what it must: %v", err)})
		}
		t.Found = found
		p.Log("%-20s %s (%v)", o.Name, found, err)
	}
	return t
}

func verdict(res Result, err error) string {
	switch {
	case err != nil:
		return fmt.Sprintf("THE RIG FAILED: %v", err)
	case res.Skipped != "":
		return "skipped: " + res.Skipped
	case len(res.Violations) > 0:
		return fmt.Sprintf("VIOLATIONS: %v", res.Violations)
	case len(res.Unchecked) > 0:
		return fmt.Sprintf("NOT CHECKED: %v", res.Unchecked)
	case len(res.Exempt) > 0:
		return fmt.Sprintf("ok, with what a capability excuses: %v", res.Exempt[0])
	}
	return "ok"
}

func (t *Tally) add(r Result) {
	t.Rounds++
	t.Ops += r.Ops
	t.Refused += r.Refused
	t.Watches += r.Watches
	t.Events += r.Events
	t.Mended += r.Mended
	t.Locks += r.Locks
	t.Fenced += r.Fenced
	t.Late += r.Late
	t.Violations = append(t.Violations, r.Violations...)
	t.Exempt = append(t.Exempt, r.Exempt...)
	t.Unchecked = append(t.Unchecked, r.Unchecked...)
	t.Took += r.Took
	for f, n := range r.Faults {
		t.Faults[f] += n
	}
}

// Failed reports whether anything is wrong. What could not be checked is not wrong: see Unchecked.
func Failed(tallies []Tally) bool {
	return slices.ContainsFunc(tallies, func(t Tally) bool {
		return len(t.Violations) > 0 || t.Err != nil && !errors.Is(t.Err, testserver.ErrUnavailable)
	})
}

// Unchecked reports whether a history was too hard to be judged.
func Unchecked(tallies []Tally) bool {
	return slices.ContainsFunc(tallies, func(t Tally) bool { return len(t.Unchecked) > 0 })
}
