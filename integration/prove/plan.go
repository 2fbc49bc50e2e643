package prove

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
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
	Rounds int
	Soak   string // in words
	Found  string // what the checker found where it had to, in words
	Err    error  // of the rig
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
	// Alone: what is held by this process is counted.
	soaked := map[string]bool{}
	for i, o := range all {
		if p.Soak > 0 && !soaked[o.Store] && ctx.Err() == nil {
			soaked[o.Store] = true
			p.soak(ctx, o, &out[i])
		}
	}
	return out
}

// soak opens a target again for a soak.
func (p *Plan) soak(ctx context.Context, o Opener, t *Tally) {
	target, err := o.Open(ctx)
	if err != nil {
		return // as before, and told
	}
	defer func() { t.Err = errors.Join(t.Err, target.Close()) }()
	s, err := Soak(ctx, target, p.Soak)
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
	t.Faults = map[string]int{}
	faults := slices.Clone(target.Faults)
	rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	over := func() bool { return !until.IsZero() && time.Now().After(until) }
	for i := 0; ctx.Err() == nil && !over() && (t.Ops < share || i < len(target.Faults)); i++ {
		f := faults[i%len(faults)]
		r := &Round{Target: target, Fault: f, Seed: rng.Uint64() >> 24, Ops: p.Round, Cycles: 2, Longest: 90 * time.Second, Dir: p.Dir}
		res, err := r.Run(ctx)
		t.add(res)
		p.Log("%-20s %-24s seed %-12d %5d operations, %6d of %d, %v left for the store: %s", o.Name, f.Name, r.Seed, res.Ops, t.Ops, share, left(t.Ops), verdict(res, err))
		if res.Skipped != "" && i < len(target.Faults) {
			t.Err = errors.Join(t.Err, fmt.Errorf("%s: %w: %s", f.Name, testserver.ErrUnavailable, res.Skipped))
		}
		if err != nil {
			t.Err = errors.Join(t.Err, fmt.Errorf("%s (seed %d): %w", f.Name, r.Seed, err))
			if t.Rounds > 3 && t.Ops == 0 {
				break
			}
		}
	}
	if target.find != nil && ctx.Err() == nil {
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
	t.Took += r.Took
	for f, n := range r.Faults {
		t.Faults[f] += n
	}
}

// Failed reports whether anything is wrong.
func Failed(tallies []Tally) bool {
	return slices.ContainsFunc(tallies, func(t Tally) bool {
		return len(t.Violations) > 0 || t.Err != nil && !errors.Is(t.Err, testserver.ErrUnavailable)
	})
}

// Report is the page that docs/proof.md is.
func (p *Plan) Report(tallies []Tally, when time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Proof\n\n"+
		"Written by `make prove` on %s with seed %d: do not edit. What is done and how it is judged is in the comment of\n"+
		"`integration/prove`; `go run ./cmd/prove -seed %d` in `integration` injects the same faults.\n\n",
		when.UTC().Format("2006-01-02"), p.Seed, p.Seed)
	b.WriteString("| target | version | operations | rounds | watches | events | locks held | fenced writes | refused late writes | violations | excused |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	perStore := map[string]int{}
	for _, t := range tallies {
		perStore[t.Store] += t.Ops
		violations := fmt.Sprint(len(t.Violations))
		if t.Ops == 0 {
			violations = "not run"
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %s | %d |\n",
			t.Target, cmp.Or(t.Version, "–"), t.Ops, t.Rounds, t.Watches, t.Events, t.Locks, t.Fenced, t.Late, violations, len(t.Exempt))
	}
	b.WriteString("\n\"Excused\" are histories that a capability, or its documentation, excuses: writes that a failover of Redis loses\n" +
		"(`DurableFence`), and reads from a leader of ZooKeeper that does not know that it has been replaced.\n\n## Operations by store\n\n| store | operations |\n|---|--:|\n")
	for _, s := range slices.Sorted(maps.Keys(perStore)) {
		fmt.Fprintf(&b, "| %s | %d |\n", s, perStore[s])
	}
	b.WriteString("\n## Faults\n\n| target | injected |\n|---|---|\n")
	for _, t := range tallies {
		var words []string
		for _, f := range slices.Sorted(maps.Keys(t.Faults)) {
			words = append(words, fmt.Sprintf("%s %d", f, t.Faults[f]))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", t.Target, strings.Join(words, ", "))
	}
	section := func(title, column string, of func(Tally) string) {
		head := false
		for _, t := range tallies {
			if text := of(t); text != "" {
				if !head {
					fmt.Fprintf(&b, "\n## %s\n\n| target | %s |\n|---|---|\n", title, column)
					head = true
				}
				fmt.Fprintf(&b, "| %s | %s |\n", t.Target, strings.ReplaceAll(strings.ReplaceAll(text, "|", "/"), "\n", " "))
			}
		}
	}
	section("What the checker found when told to expect more than is promised", "found", func(t Tally) string { return t.Found })
	section("Soak", "first and last", func(t Tally) string { return t.Soak })
	section("Violations", "what", func(t Tally) string {
		var words []string
		for _, v := range t.Violations {
			words = append(words, v.What)
		}
		return strings.Join(words, "; ")
	})
	section("Not run, or not to the end", "why", func(t Tally) string {
		if t.Err == nil {
			return ""
		}
		return t.Err.Error()
	})
	return b.String()
}
