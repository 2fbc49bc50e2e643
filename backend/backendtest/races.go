package backendtest

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// raceCases are about writers that meet on one key.
func raceCases() []testCase {
	return []testCase{
		{
			name: "R11/of racers for one revision exactly one wins, with equal values too",
			why:  "Consul tells both of two racers with one value yes",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for round := range e.rounds(20) {
					rev := e.put(e.s, "k", "same").Revision
					e.oneWins(6, backend.ErrConflict, func(i int) (backend.Revision, error) {
						value := "same"
						if round%2 == 1 {
							value = strconv.Itoa(i)
						}
						ent, err := stores[i%2].Put(e.ctx, "k", []byte(value), backend.PutOptions{If: backend.AtRevision, Revision: rev})
						return ent.Revision, err
					})
				}
			},
		},
		{
			name: "R11/of racers to create a key exactly one wins, with equal values too",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for round := range e.rounds(20) {
					key := fmt.Sprintf("k%d", round/2) // every other one is a recreation
					e.oneWins(6, backend.ErrExists, func(i int) (backend.Revision, error) {
						ent, err := stores[i%2].Put(e.ctx, key, []byte("same"), backend.PutOptions{If: backend.Absent})
						return ent.Revision, err
					})
					e.del(e.s, key)
				}
			},
		},
		{
			name: "R11/of a delete and a put at one revision exactly one wins",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range e.rounds(20) {
					rev := e.put(e.s, "k", "v").Revision
					e.oneWins(4, backend.ErrConflict, func(i int) (backend.Revision, error) {
						if i%2 == 0 {
							return 0, stores[0].Delete(e.ctx, "k", backend.DeleteOptions{If: backend.AtRevision, Revision: rev})
						}
						ent, err := stores[1].Put(e.ctx, "k", []byte("v"), backend.PutOptions{If: backend.AtRevision, Revision: rev})
						return ent.Revision, err
					})
				}
			},
		},
		{
			name: "R11/of unconditional deletes of one key exactly one finds it",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range e.rounds(20) {
					e.put(e.s, "k", "v")
					e.oneWins(4, backend.ErrNotFound, func(i int) (backend.Revision, error) {
						return 0, stores[i%2].Delete(e.ctx, "k", backend.DeleteOptions{})
					})
				}
			},
		},
		{
			name: "R11/a thousand concurrent writers on one key lose no update",
			why:  "a compare-and-set of a predecessor on Redis lets a stale write win",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				e.put(e.s, "n", "0")
				var mu sync.Mutex
				won, unsure := 0, 0
				revs := map[backend.Revision]bool{}
				e.together(1000, func(i int) {
					s := stores[i%2]
					ent, err := s.Get(e.ctx, "n", backend.GetOptions{})
					if err != nil {
						e.Errorf("Get: %v", err)
						return
					}
					n, err := strconv.Atoi(string(ent.Value))
					if err != nil {
						e.Errorf("Get returned %q", ent.Value)
						return
					}
					ent, err = s.Put(e.ctx, "n", strconv.AppendInt(nil, int64(n+1), 10), backend.PutOptions{If: backend.AtRevision, Revision: ent.Revision})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						won++
						if revs[ent.Revision] {
							e.Errorf("two writes have revision %d", ent.Revision)
						}
						revs[ent.Revision] = true
					case errors.Is(err, backend.ErrUncertain):
						unsure++
					case !errors.Is(err, backend.ErrConflict):
						e.Errorf("Put: %v, want success or ErrConflict", err)
					}
				})
				n, err := strconv.Atoi(string(e.get(e.s, "n").Value))
				e.noErr(err, "Atoi")
				if n < won || n > won+unsure || won == 0 {
					e.Errorf("the counter is %d after %d successes and %d uncertain writes", n, won, unsure)
				}
				e.Logf("%d of 1000 writers won", won)
			},
		},
		{
			name: "R11/counting by compare-and-set until it succeeds counts every time",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				const workers, each = 8, 10
				e.put(e.s, "n", "0")
				e.together(workers, func(i int) {
					for done := 0; done < each; {
						ent, err := stores[i%2].Get(e.ctx, "n", backend.GetOptions{})
						if err != nil {
							e.Errorf("Get: %v", err)
							return
						}
						n, _ := strconv.Atoi(string(ent.Value))
						_, err = stores[i%2].Put(e.ctx, "n", strconv.AppendInt(nil, int64(n+1), 10), backend.PutOptions{If: backend.AtRevision, Revision: ent.Revision})
						switch {
						case err == nil:
							done++
						case !errors.Is(err, backend.ErrConflict):
							e.Errorf("Put: %v", err)
							return
						}
					}
				})
				e.holds(e.s, "n", strconv.Itoa(workers*each))
			},
		},
	}
}

// together runs f(0) … f(n-1) at once and waits for all.
func (e *env) together(n int, f func(i int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			f(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// rounds counts to n at least, and goes on for a while on a store that is fast:
// there a race needs more attempts until it shows.
func (e *env) rounds(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, end := 0, time.Now().Add(never); i < n || time.Now().Before(end); i++ {
			if !yield(i) {
				return
			}
		}
	}
}

// oneWins demands that of n concurrent attempts one succeeds, and that the
// others fail with lost.
func (e *env) oneWins(n int, lost error, attempt func(i int) (backend.Revision, error)) {
	e.Helper()
	revs, errs := make([]backend.Revision, n), make([]error, n)
	e.together(n, func(i int) { revs[i], errs[i] = attempt(i) })
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, lost):
			e.Fatalf("racer %d: %v, want success or %v", i, err, lost)
		}
	}
	if won != 1 {
		e.Fatalf("%d of %d racers won (revisions %v), want 1", won, n, revs)
	}
}
