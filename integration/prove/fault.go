package prove

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/polykv/kv/internal/testserver"
)

// A Fault is one way in which things break.
type Fault struct {
	Name string
	// Exempt names what a capability, or its documentation, excuses while this fault is injected: "" nothing, exemptReads
	// that reads are stale, exemptAll that acknowledged writes are lost.
	Exempt string
	// Hold bounds for how long one injection lasts, and Rest the time between two.
	Hold, Rest [2]time.Duration
	// Forgets is set if history that a watch has not seen may go, so that a lossless watch may have to be mended.
	Forgets bool

	needsNetworks bool // of their own, for the nodes

	inject func(ctx context.Context, f *field) (what string, heal func(context.Context) error, err error)
	run    func(ctx context.Context, r *Round) (Result, error) // instead of the usual round
}

const (
	exemptReads = "reads"
	exemptAll   = "acknowledged writes"
)

// field is where a fault strikes.
type field struct {
	rng   *rand.Rand
	t     *Target
	links []*link
	round *Round
	dir   []byte // what every request of the round holds
}

// between returns a duration in the range.
func between(rng *rand.Rand, r [2]time.Duration) time.Duration {
	return r[0] + time.Duration(rng.Int64N(int64(max(r[1]-r[0], 1))))
}

// some returns a few of the links, at least one.
func (f *field) some() []*link {
	var out []*link
	for _, i := range f.rng.Perm(len(f.links))[:1+f.rng.IntN(len(f.links))] {
		out = append(out, f.links[i])
	}
	return out
}

func healed(context.Context) error { return nil }

// short is the hold of faults that are over as soon as they are made.
var short = [2]time.Duration{20 * time.Millisecond, 150 * time.Millisecond}

// networkFaults are those between clients and servers.
func networkFaults() []Fault {
	return []Fault{cuts(), lost("lost requests", (*testserver.Proxy).LoseRequest), lost("lost replies", (*testserver.Proxy).LoseReply), stalls()}
}

func cuts() Fault {
	return Fault{Name: "cut connections", Hold: short, Rest: short, inject: func(_ context.Context, f *field) (string, func(context.Context) error, error) {
		refuse := f.rng.IntN(2) == 0
		links := f.some()
		set := func(on bool) {
			for _, l := range links {
				l.net.each(func(_ string, p *testserver.Proxy) {
					if refuse {
						p.Refuse(on)
					}
					if on {
						p.Cut()
					}
				})
			}
		}
		set(true)
		return fmt.Sprintf("cut %d clients (refuse: %v)", len(links), refuse), func(context.Context) error { set(false); return nil }, nil
	}}
}

// lost loses a request or its reply, again and again while it holds.
func lost(name string, lose func(*testserver.Proxy, func([]byte) bool) <-chan struct{}) Fault {
	return Fault{Name: name, Hold: [2]time.Duration{200 * time.Millisecond, 600 * time.Millisecond}, Rest: short, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan int)
		mentions := func(request []byte) bool { return bytes.Contains(request, f.dir) }
		rng := rand.New(rand.NewPCG(f.rng.Uint64(), 0))
		go func() {
			n := 0
			defer func() { done <- n }()
			for ctx.Err() == nil {
				p := f.links[rng.IntN(len(f.links))].net.any(rng)
				if p == nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				sprung := lose(p, mentions)
				select {
				case <-sprung:
					n++
				case <-time.After(30 * time.Millisecond):
					lose(p, nil)
				case <-ctx.Done():
					lose(p, nil)
				}
			}
		}()
		return name, func(context.Context) error {
			cancel()
			f.round.count(name, <-done)
			return nil
		}, nil
	}}
}

func stalls() Fault {
	return Fault{Name: "stall", Hold: [2]time.Duration{300 * time.Millisecond, 2500 * time.Millisecond}, Rest: short, inject: func(_ context.Context, f *field) (string, func(context.Context) error, error) {
		links := f.some()
		for _, l := range links {
			l.net.each(func(_ string, p *testserver.Proxy) { p.Stall() })
		}
		return fmt.Sprintf("stall %d clients", len(links)), func(context.Context) error {
			for _, l := range links {
				l.net.each(func(_ string, p *testserver.Proxy) { p.Resume() })
			}
			return nil
		}, nil
	}}
}

// expiry lets what clients keep alive expire, by silence.
func expiry(hold time.Duration) Fault {
	f := stalls()
	f.Name = "session expiry"
	f.Hold = [2]time.Duration{hold, hold + time.Second}
	return f
}

// hasty is no fault of the store: calls get next to no time, so that their contexts end at every step.
func hasty() Fault {
	return Fault{Name: "ended contexts", Hold: [2]time.Duration{100 * time.Millisecond, 500 * time.Millisecond}, Rest: short, inject: func(_ context.Context, f *field) (string, func(context.Context) error, error) {
		f.round.hasty.Store(true)
		return "ended contexts", func(context.Context) error { f.round.hasty.Store(false); return nil }, nil
	}}
}

// kill ends nodes with SIGKILL and starts them again. pick chooses them.
func kill(name string, pick func(context.Context, *field) ([]int, error)) Fault {
	return Fault{Name: name, Hold: [2]time.Duration{0, 800 * time.Millisecond}, Rest: [2]time.Duration{300 * time.Millisecond, time.Second}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		nodes, err := pick(ctx, f)
		if err != nil {
			return "", nil, err
		}
		what := fmt.Sprintf("kill %v", nodes)
		return what, func(ctx context.Context) error { return f.t.server.Restart(ctx, nodes...) }, f.t.server.Kill(nodes...)
	}}
}

// pause stops nodes with SIGSTOP.
func pause(name string, hold [2]time.Duration, pick func(context.Context, *field) ([]int, error)) Fault {
	return Fault{Name: name, Hold: hold, Rest: [2]time.Duration{200 * time.Millisecond, time.Second}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		nodes, err := pick(ctx, f)
		if err != nil {
			return "", nil, err
		}
		what := fmt.Sprintf("pause %v", nodes)
		return what, func(context.Context) error { return f.t.server.Resume(nodes...) }, f.t.server.Pause(nodes...)
	}}
}

// anyNode picks one of the first n nodes.
func anyNode(n int) func(context.Context, *field) ([]int, error) {
	return func(_ context.Context, f *field) ([]int, error) { return []int{f.rng.IntN(n)}, nil }
}

// follower picks a node that does not lead. leader tells which one does, of n.
func follower(n int, leader func(context.Context, *field) ([]int, error)) func(context.Context, *field) ([]int, error) {
	return func(ctx context.Context, f *field) ([]int, error) {
		leads, err := leader(ctx, f)
		if err != nil {
			return nil, err
		}
		return []int{(leads[0] + 1 + f.rng.IntN(n-1)) % n}, nil
	}
}

// pauseOfServer is as long as calls wait, and longer.
var pauseOfServer = [2]time.Duration{200 * time.Millisecond, 2500 * time.Millisecond}

// pauseOfLeader is long enough for another one to be elected.
var pauseOfLeader = [2]time.Duration{2500 * time.Millisecond, 5 * time.Second}
