package backendtest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
)

// Harness is how the suite reaches one store. Only Open is required; what else
// is nil is reported in the log together with the cases that need it.
type Harness struct {
	// Open returns a store below root, on the same server whenever it is
	// called, through the constructor that users call and with its default
	// options. root is a plain name that no other case uses; a harness may
	// dress it as its store needs (a leading slash, a hash tag). Two stores
	// that are opened on one root are two clients of the same keys. The
	// suite closes the store; what else Open makes, a native client say, it
	// closes with t.Cleanup.
	Open func(t testing.TB, root string) backend.Store

	// Foreign returns access to the keys below root without this library, as
	// another program has it.
	Foreign func(t testing.TB, root string) Foreign

	// Requests is how many requests all stores together have sent so far.
	Requests func() int64

	// Reopen is for a store that lives in the process: it is called while no
	// store is open, and closes and opens again what holds the data.
	Reopen func(t testing.TB)

	// Restart stops the server, as hard as the contract has to survive it,
	// and returns when it serves the same data again. Stores stay open.
	Restart func(t testing.TB)

	// Break cuts every connection that stores have at the moment. New ones
	// succeed at once.
	Break func(t testing.TB)

	// Pause makes the server silent, without closing a connection, until
	// resume is called.
	Pause func(t testing.TB) (resume func())

	// Leaks are more options for goleak, for goroutines that a native client
	// shared between cases keeps on purpose.
	Leaks []goleak.Option

	patience time.Duration // shorter in tests of the suite itself
}

// Foreign is a store's keys as another program sees them. Keys are canonical:
// Foreign joins them to its root and escapes them as the driver documents it,
// with a client of its own and without any of the driver's code for reading
// and writing. If it has a method PutName as well, see ForeignNames.
type Foreign interface {
	Put(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) (value []byte, found bool, err error)
	Delete(ctx context.Context, key string) error
}

// ForeignNames is a Foreign that can also write names that are no keys (R5).
type ForeignNames interface {
	// PutName writes under root and name, joined by one slash and otherwise
	// verbatim. It returns errors.ErrUnsupported for a name that the store
	// does not take, or that its protocol would make another name of.
	PutName(ctx context.Context, name string, value []byte) error
}

// need is a field of Harness that a case cannot do without.
type need uint8

const (
	foreign need = 1 << iota
	requests
	reopen // Reopen or Restart
	restart
	breaking
	pause
)

func (n need) String() string {
	var names []string
	for i, name := range []string{"Foreign", "Requests", "Reopen or Restart", "Restart", "Break", "Pause"} {
		if n&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " and ")
}

func (h Harness) has() need {
	var n need
	for i, given := range []bool{
		h.Foreign != nil, h.Requests != nil, h.Reopen != nil || h.Restart != nil,
		h.Restart != nil, h.Break != nil, h.Pause != nil,
	} {
		if given {
			n |= 1 << i
		}
	}
	return n
}

// testCase is one statement of the contract.
type testCase struct {
	name  string // rule and statement: "R11/put at a stale revision is ErrConflict"
	why   string // the reason, where it is not obvious; printed when the case fails
	needs need
	timed bool // waits for time to pass, so it runs beside the other timed cases
	run   func(e *env)
}

// sharedCase is about the harness. It comes before all others.
func sharedCase() testCase {
	return testCase{
		name: "Harness/two stores of one root share their data",
		why: "Harness.Open must return one more client of the same keys when it is called with the same root again: what lies in the " +
			"process, as a map or a file's handle, is made once for each root, or once for all, and every store opened on it",
		run: func(e *env) {
			written := e.put(e.s, "shared", "v")
			other := e.open()
			ctx, cancel := context.WithTimeoutCause(e.ctx, e.patience, errors.New("it does not come"))
			defer cancel()
			var o backend.GetOptions
			if !e.caps.LinearizableReads { // it may be late, but must come
				o.AtLeast = written.Revision
			}
			got, err := other.Get(ctx, "shared", o)
			if err != nil || string(got.Value) != "v" || got.Revision != written.Revision {
				e.Fatalf("what one store of root %q wrote at revision %d another one reads as %q at revision %d, %v",
					e.root, written.Revision, got.Value, got.Revision, err)
			}
		},
	}
}

// cases is the whole contract, in the order of its rules.
func cases() []testCase {
	var all []testCase
	for _, part := range [][]testCase{
		keyCases(), valueCases(), revisionCases(), conditionCases(), raceCases(), readCases(), listCases(), iterationCases(),
		watchCases(), eventCases(), streamCases(), resumeCases(), foreignCases(), txnCases(), ttlCases(), expiryCases(),
		leaseCases(), contendCases(), fenceCases(), holderCases(), contextCases(), lifeCases(),
	} {
		all = append(all, part...)
	}
	return all
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Open == nil {
		t.Fatal("backendtest: Harness.Open is nil")
	}
	run := func(c testCase) bool {
		return t.Run(c.name, func(t *testing.T) {
			noLeaks(t, h) // first, so that it is the last cleanup to run
			c.run(newEnv(t, h, c))
		})
	}
	if !run(sharedCase()) {
		t.Fatal("backendtest: no other case is run, as most would wait in vain for what another store writes")
	}
	missing := map[need][]string{}
	var timed []testCase
	for _, c := range cases() {
		if lacks := c.needs &^ h.has(); lacks != 0 {
			missing[lacks] = append(missing[lacks], c.name)
			continue
		}
		if c.timed {
			timed = append(timed, c)
			continue
		}
		run(c)
	}
	t.Run("timed", func(t *testing.T) {
		noLeaks(t, h) // of all of them: while they run beside each other none can be told apart
		// Not t.Parallel, which runs as many as there are processors: these
		// cases do nothing but wait, twenty seconds for a lease on Consul.
		var all sync.WaitGroup
		defer all.Wait()
		for _, c := range timed {
			all.Go(func() {
				t.Run(c.name, func(t *testing.T) { c.run(newEnv(t, h, c)) })
			})
		}
	})
	for lacks, names := range missing {
		t.Logf("not run, because the harness has no %v: %s", lacks, strings.Join(names, "; "))
	}
}
