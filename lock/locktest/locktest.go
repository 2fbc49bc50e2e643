// Package locktest is the rules of package lock (R30–R34) as a test suite, for
// the author of any driver.
package locktest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
)

// Harness says how to reach the store under test.
type Harness struct {
	// Open returns a client of the store, on the given root of one server,
	// made as users make it. Several are open at a time; the suite closes
	// them.
	Open func(t testing.TB, root string) backend.Store
	// Acquisitions is how often 32 contenders take one lock; 0: 1000.
	Acquisitions int
	// Remains, if it is set, returns the native names of what locks have
	// left on the store below a root: places in queues, sessions, leases.
	// The suite calls it when all clients of the root are closed, and wants
	// nothing to come back.
	Remains func(t testing.TB, root string) []string
}

// patience is how long the suite waits for what should happen at once, on a
// machine that does much else.
const patience = 20 * time.Second

// alone is the case that has the machine for itself. The others wait most of
// the time, for leases to end.
const alone = "R30/one holder at a time, and tokens that grow"

// Run runs the suite. Each case has a root of its own. All but one run in
// parallel, and wait most of the time: raise the flag -parallel.
func Run(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(*env)
	}{
		{alone, exclusion},
		{"R30/contenders are admitted in order of arrival", arrival},
		{"R30/a wait that is cancelled ends at once and holds up nobody", cancelled},
		{"R30/an acquisition that is cancelled or fails at any step leaves nothing behind", steps},
		{"R30/TryLock does not wait and leaves nothing", try},
		{"R31/Unlock is idempotent and works with an ended context", unlock},
		{"R31/Unlock beside another one waits no longer than its context", besides},
		{"R31/a lock that was lost, unlocked twice, or unlocked after Close", ended},
		{"R31,R32/a holder that cannot renew is told in time, and its writes are refused", lost},
		{"R33/readers share, and wait behind a writer", readers},
		{"R33/a semaphore admits as many as it has slots", semaphore},
		{"R33/overlapping sets of locks do not deadlock", overlapping},
		{"R33/of several locks one that is lost while the next is waited for ends the waiting", halfLost},
		{"R33/an election has one leader, and observers see each in order", election},
		{"R33/a leader that resigns is followed, one that leads on is left alone", lead},
		{"R33/who has resigned or lost proclaims nothing, and may stand again", speechless},
		{"R33/observers are told of no earlier leader", orderly},
		{"R39/Close releases what is held and ends who waits", closing},
		{"R9,R33/a value is shown whole, and one over the limit is refused", values},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != alone {
				t.Parallel()
			}
			e := &env{T: t, h: h, root: "locktest-" + rand.Text(), stalls: pace.Watch(t)}
			if h.Remains != nil {
				e.Cleanup(e.nothingRemains) // after the clients, which are opened later, have closed
			}
			c.run(e)
		})
	}
}

// env is one case's surroundings.
type env struct {
	*testing.T
	h    Harness
	root string

	stalls *pace.Stalls // when the machine stood still
}

// open returns another client on the case's root.
func (e *env) open(opts ...kv.Option) *kv.Store {
	s := kv.New(e.h.Open(e.T, e.root), opts...)
	e.Cleanup(func() {
		if err := s.Close(); err != nil {
			e.Errorf("close: %v", err)
		}
	})
	return s
}

// nothingRemains allows the store a moment for what it does in the background.
func (e *env) nothingRemains() {
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if left = e.h.Remains(e.T, e.root); len(left) == 0 {
			return
		}
	}
	e.Errorf("locks have left %q", left)
}

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(e.Context(), 3*time.Minute)
	e.Cleanup(cancel)
	return ctx
}

// must fails the case for an error.
func (e *env) must(what string, err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
}

// soon fails the case unless c delivers within patience.
func soon[T any](e *env, what string, c <-chan T) T {
	e.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		e.Fatalf("%s: not within %v", what, patience)
		panic("not reached")
	}
}

// ends fails the case unless c delivers within d, which is a rule's bound: the
// time for which the machine stands still does not count.
func ends[T any](e *env, what string, c <-chan T, d time.Duration) {
	e.Helper()
	ctx, cancel := e.stalls.Timeout(e.ctx(), d)
	defer cancel()
	select {
	case <-c:
		return
	case <-ctx.Done():
	}
	select {
	case <-c: // as the time ended
	default:
		e.Fatalf("%s: not within %v", what, d)
	}
}

// never fails the case if c delivers soon: a tenth of a second is many times
// what an admission by mistake takes on any store.
func never[T any](e *env, what string, c <-chan T) {
	e.Helper()
	select {
	case <-c:
		e.Fatal(what)
	case <-time.After(100 * time.Millisecond):
	}
}

// shut is a store whose renewals can be cut off.
type shut struct {
	mu  sync.Mutex
	cut bool
}

func (c *shut) off() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

func (c *shut) intercept(ctx context.Context, call kv.Call, next func(context.Context) error) error {
	c.mu.Lock()
	cut := c.cut && call.Op == kv.OpRenew
	c.mu.Unlock()
	if cut {
		return kv.ErrUnavailable
	}
	return next(ctx)
}
