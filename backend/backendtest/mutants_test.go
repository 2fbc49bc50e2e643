package backendtest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// mutant is the reference store with one defect, most of them a predecessor's,
// and the rule whose cases have to find it.
type mutant struct {
	defect string
	rule   string // as in -run, below the name of the test
	wrap   func(backend.Store) backend.Store
}

// TestSuiteFindsDefects runs the suite on each mutant in a process of its own,
// and demands that it fails.
func TestSuiteFindsDefects(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the suite once for each defect")
	}
	slots := make(chan struct{}, 8) // they wait more than they compute
	var all sync.WaitGroup
	defer all.Wait()
	run := func(i int, m mutant) {
		t.Run(m.defect, func(t *testing.T) {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMutant$/"+m.rule, "-test.v")
			cmd.Env = append(os.Environ(), fmt.Sprint("MUTANT=", i))
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			found := bytes.Contains(out, []byte("--- FAIL: TestMutant/")) || bytes.Contains(out, []byte("panic: released already"))
			if !errors.As(err, &exit) || !found {
				t.Errorf("the suite does not find it (%v):\n%s", err, out)
			}
		})
	}
	for i, m := range mutants() {
		all.Go(func() { run(i, m) })
	}
}

// TestStoresApart: a harness whose stores of one root share nothing fails in the
// first case, which says so, and waits for no other.
func TestStoresApart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestApart$", "-test.v")
	cmd.Env = append(os.Environ(), "APART=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil || !bytes.Contains(out, []byte("Harness.Open must return")) {
		t.Errorf("the suite does not say what is wrong (%v):\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("=== RUN   TestApart/")); n != 1 {
		t.Errorf("%d cases were run:\n%s", n, out)
	}
}

// TestApart is what TestStoresApart runs in its process.
func TestApart(t *testing.T) {
	if os.Getenv("APART") == "" {
		t.Skip("runs as a part of TestStoresApart")
	}
	backendtest.Run(t, backendtest.Harness{
		Open: func(testing.TB, string) backend.Store { return memkv.New(memkv.Options{}) },
	})
}

// TestMutant is what TestSuiteFindsDefects runs in its processes.
func TestMutant(t *testing.T) {
	var i int
	if _, err := fmt.Sscan(os.Getenv("MUTANT"), &i); err != nil {
		t.Skip("runs as a part of TestSuiteFindsDefects")
	}
	h := memory().Impatient(2 * time.Second)
	open := h.Open
	h.Open = func(t testing.TB, root string) backend.Store { return mutants()[i].wrap(open(t, root)) }
	backendtest.Run(t, h)
}

func mutants() []mutant {
	leaked := make(chan struct{})
	var tokens atomic.Uint64
	return append(writing(), []mutant{
		{"a watch without deletes", "^R18", filter(func() func(backend.Event) []backend.Event {
			return func(ev backend.Event) []backend.Event {
				if ev.Kind == backend.Deleted {
					return nil
				}
				return []backend.Event{ev}
			}
		})},
		{"a watch that loses one event of forty", "^R22", filter(every(40, drop))},
		{"a watch that repeats one event of forty", "^R22", filter(every(40, func(ev backend.Event) []backend.Event { return []backend.Event{ev, ev} }))},
		{"a watch that calls a creation an update", "^R18", filter(every(1, func(ev backend.Event) []backend.Event {
			if ev.Kind == backend.Created {
				ev.Kind = backend.Updated
			}
			return []backend.Event{ev}
		}))},
		{"a watch that forgets the previous value", "^R18", filter(every(1, func(ev backend.Event) []backend.Event {
			ev.Prev = nil
			return []backend.Event{ev}
		}))},
		{"a watch whose deletes have an invented revision", "^R22", filter(every(1, func(ev backend.Event) []backend.Event {
			if ev.Kind == backend.Deleted {
				ev.Revision += 1000
			}
			return []backend.Event{ev}
		}))},
		{"a watch of foo that covers foobar", "^R17", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				w, err := a.Store.Watch(ctx, "", o)
				return &filtered{Watch: w, f: func(ev backend.Event) []backend.Event {
					if strings.HasPrefix(ev.Key, prefix) {
						return []backend.Event{ev}
					}
					return nil
				}}, err
			}
		})},
		{"a watch that is not yet established when Watch returns", "^R17", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				return &late{ready: sync.OnceValues(func() (backend.Watch, error) { return a.Store.Watch(ctx, prefix, o) })}, nil
			}
		})},
		{"a watch that lists, and then watches", "^R19", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				if !o.Snapshot || o.Key {
					return a.Store.Watch(ctx, prefix, o)
				}
				var queue []backend.Event
				for ent, err := range a.Store.List(ctx, prefix, backend.ListOptions{}) {
					if err != nil {
						return nil, err
					}
					queue = append(queue, backend.Event{Kind: backend.Existing, Entry: ent})
				}
				o.Snapshot = false
				time.Sleep(time.Millisecond) // the gap, in which a writer gets something in
				w, err := a.Store.Watch(ctx, prefix, o)
				queue = append(queue, backend.Event{Kind: backend.Synced, Token: "t"})
				return &filtered{Watch: w, queue: queue, f: func(ev backend.Event) []backend.Event { return []backend.Event{ev} }}, err
			}
		})},
		{"a watch with an unbounded buffer", "^R23", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				w, err := a.Store.Watch(ctx, prefix, o)
				if err != nil {
					return nil, err
				}
				return newHoarder(ctx, w), nil
			}
			a.put = func(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
				defer time.Sleep(200 * time.Microsecond) // so that the hoarder comes along, and loses no history
				return a.Store.Put(ctx, key, value, o)
			}
		})},
		{"a watch that does not end with its context", "^R17", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				return a.Store.Watch(context.WithoutCancel(ctx), prefix, o)
			}
		})},
		{"a resumed watch that skips an event", "^R21", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				w, err := a.Store.Watch(ctx, prefix, o)
				if err != nil || o.Resume == "" {
					return w, err
				}
				return &filtered{Watch: w, f: every(2, drop)()}, nil
			}
		})},
		{"a token that is taken by any watch", "^R21", alter(func(a *altered) {
			a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
				w, err := a.Store.Watch(ctx, prefix, o)
				if errors.Is(err, backend.ErrInvalid) {
					o.Resume = ""
					return a.Store.Watch(ctx, prefix, o)
				}
				return w, err
			}
		})},
		{"a lock that two hold", "^R30", locks(func(a *altered, c backend.Contender) backend.Contender {
			go func() { _ = c.Renew(context.Background()) }()
			return impatient{c}
		})},
		{"a failed try that stays in the queue", "^R30", alter(func(a *altered) {
			a.lock = func(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
				c, err := a.Store.Contend(ctx, name, o)
				if errors.Is(err, backend.ErrLocked) {
					o.Try = false
					_, _ = a.Store.Contend(ctx, name, o)
				}
				return c, err
			}
		})},
		{"a Contend that leaves an orphan when it is cancelled", "^R30", alter(func(a *altered) {
			a.lock = func(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
				c, err := a.Store.Contend(context.WithoutCancel(ctx), name, o)
				time.Sleep(50 * time.Microsecond) // the reply is on its way
				if err == nil && ctx.Err() != nil {
					return nil, backend.ContextError(ctx)
				}
				return c, err
			}
		})},
		{"tokens that start over", "^R31", locks(func(a *altered, c backend.Contender) backend.Contender {
			n := tokens.Add(1)
			return contender{Contender: c, token: func() uint64 { return n%4 + 1 }}
		})},
		{"a check that always holds", "^R31", locks(func(a *altered, c backend.Contender) backend.Contender {
			return contender{Contender: c, check: func() backend.Check { return backend.Check{If: backend.Absent, Key: "no such key"} }}
		})},
		{"a second release that panics", "^R31", locks(func(a *altered, c backend.Contender) backend.Contender {
			var once atomic.Bool
			return contender{Contender: c, release: func(ctx context.Context) error {
				if once.Swap(true) {
					panic("released already")
				}
				return c.Release(ctx)
			}}
		})},
		{"a release that needs a live context", "^R32", locks(func(a *altered, c backend.Contender) backend.Contender {
			return contender{Contender: c, release: func(ctx context.Context) error {
				if err := backend.ContextError(ctx); err != nil {
					return err
				}
				return c.Release(ctx)
			}}
		})},
		{"a lost lock that nobody is told of", "^timed$/^R32", locks(func(a *altered, c backend.Contender) backend.Contender {
			return contender{Contender: c, lost: make(chan struct{})}
		})},
		{"a renewal that writes", "^R29", writingRenewal()},
		{"a lease that writes again what it was given", "^R8", writingRenewal()},
		{"a registration that cuts its value", "^R9", alter(func(a *altered) {
			a.lease = func(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
				return a.Store.Register(ctx, key, value[:min(len(value), a.Capabilities().MaxValueBytes)], o)
			}
		})},
		{"a release that deletes what somebody else wrote", "^R29", alter(func(a *altered) {
			a.lease = func(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
				l, err := a.Store.Register(ctx, key, value, o)
				return lease{Lease: l, release: func(ctx context.Context) error {
					_ = a.Store.Delete(ctx, key, backend.DeleteOptions{})
					return l.Release(ctx)
				}}, err
			}
		})},
		{"a leaked goroutine", "^R13", alter(func(a *altered) { go func() { <-leaked }() })},
		{"a Close that can be called once", "^R39", alter(func(a *altered) {
			var once atomic.Bool
			a.close = func() error {
				if once.Swap(true) {
					return backend.ErrClosed
				}
				return a.Store.Close()
			}
		})},
	}...)
}

// writingRenewal writes at each renewal what it was given.
func writingRenewal() func(backend.Store) backend.Store {
	return alter(func(a *altered) {
		a.lease = func(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
			l, err := a.Store.Register(ctx, key, value, o)
			return lease{Lease: l, renew: func(ctx context.Context) error {
				_, err := l.Set(ctx, value)
				return err
			}}, err
		}
	})
}
