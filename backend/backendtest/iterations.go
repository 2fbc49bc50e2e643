package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv/backend"
)

// iterationCases are about a list while it runs, and what runs beside it.
func iterationCases() []testCase {
	return []testCase{
		{
			name: "R14/stopping early leaves nothing behind",
			why:  "an open transaction would block every writer, and abandoned streams leak goroutines",
			run: func(e *env) {
				e.fill(e.s, numbered("k", 1200), func(string) string { return "v" })
				for range 20 {
					for _, err := range e.s.List(e.ctx, "", backend.ListOptions{}) {
						e.noErr(err, "List")
						break
					}
					e.put(e.s, "k", "a writer is not blocked")
				}
				func() {
					defer func() { _ = recover() }() // a panic in the body stops the loop as well
					for range e.s.List(e.ctx, "", backend.ListOptions{}) {
						panic("in the loop body")
					}
				}()
				e.put(e.s, "k", "a writer is not blocked")
			},
		},
		{
			name: "R14/the loop body may use the store",
			why:  "on bbolt a write inside a read transaction deadlocks when the file has to grow",
			run: func(e *env) {
				keys := numbered("d/k", 700)
				e.fill(e.s, keys, func(string) string { return "v" })
				big := strings.Repeat("x", min(64<<10, e.caps.MaxValueBytes/2))
				n := 0
				for ent, err := range e.s.List(e.ctx, "d", backend.ListOptions{}) {
					e.noErr(err, "List")
					if n%100 == 0 {
						e.put(e.s, "other", big)
						e.putWith(e.s, ent.Key, big, backend.PutOptions{If: backend.AtRevision, Revision: ent.Revision})
						e.lists(e.s, "d", backend.ListOptions{Limit: 1, KeysOnly: true}, keys[n])
					}
					e.del(e.s, ent.Key)
					n++
				}
				if n != len(keys) {
					e.Errorf("a list whose keys are deleted as they come yields %d of %d", n, len(keys))
				}
				e.lists(e.s, "d", backend.ListOptions{})
			},
		},
		{
			name: "R15/nothing below a prefix is an empty list and no error",
			why:  "an empty list is an error in every predecessor",
			run: func(e *env) {
				e.lists(e.s, "", backend.ListOptions{})
				e.lists(e.s, "no/such/prefix", backend.ListOptions{})
				e.put(e.s, "a", "v")
				e.lists(e.s, "a", backend.ListOptions{})
				e.lists(e.s, "a", backend.ListOptions{Children: true})
				n, err := e.s.DeletePrefix(e.ctx, "no/such/prefix")
				if n != 0 || err != nil {
					e.Errorf("DeletePrefix of nothing = %d, %v", n, err)
				}
			},
		},
		{
			name: "R15/the list ends after its first error",
			run: func(e *env) {
				e.fill(e.s, numbered("k", 1200), func(string) string { return "v" })
				ctx, cancel := context.WithCancel(e.ctx)
				defer cancel()
				n, failed := 0, 0
				for ent, err := range e.s.List(ctx, "", backend.ListOptions{}) {
					if failed > 0 {
						e.Fatalf("the list goes on after its error, with %q, %v", ent.Key, err)
					}
					if err != nil {
						failed++
						e.wantErr(err, "List", context.Canceled)
						continue
					}
					if n++; n == 3 {
						cancel()
					}
				}
				if failed != 1 {
					e.Errorf("a list whose context ended yields %d keys and no error", n)
				}
			},
		},
		{
			name: "R16/a key that is present throughout is yielded exactly once, in order",
			why:  "Redis's SCAN repeats and reorders when the keyspace changes",
			run: func(e *env) {
				stable := numbered("s", 800)
				e.fill(e.s, stable, func(k string) string { return k })
				other := e.open()
				var stop atomic.Bool
				var churn sync.WaitGroup
				for w := range 2 {
					churn.Go(func() {
						for i := 0; !stop.Load(); i++ {
							k := fmt.Sprintf("s%05d-%d", (i*37)%800, w) // between the stable ones
							if _, err := other.Put(e.ctx, k, nil, backend.PutOptions{}); err != nil {
								e.Errorf("Put: %v", err)
								return
							}
							_, err := other.Put(e.ctx, stable[(i*53)%800], []byte("changed"), backend.PutOptions{})
							if err == nil && i%2 == 0 {
								err = other.Delete(e.ctx, k, backend.DeleteOptions{})
							}
							if err != nil {
								e.Errorf("churn: %v", err)
								return
							}
						}
					})
				}
				defer churn.Wait()
				defer stop.Store(true)
				for range 8 {
					var got []string
					last := ""
					for ent, err := range e.s.List(e.ctx, "", backend.ListOptions{}) {
						e.noErr(err, "List")
						if ent.Key <= last {
							e.Fatalf("%q comes after %q", ent.Key, last)
						}
						last = ent.Key
						if !strings.Contains(ent.Key, "-") {
							got = append(got, ent.Key)
						}
					}
					if !slices.Equal(got, stable) {
						e.Fatalf("of the keys that were there throughout: %s", firstDifference(got, stable))
					}
				}
			},
		},
		{
			name: "R16,R42/SnapshotList: a list shows one moment, across pages",
			why:  "unset: nothing is promised, so nothing is shown but that the list is whole",
			run: func(e *env) {
				if !e.caps.SnapshotList {
					e.lists(e.s, "", backend.ListOptions{})
					return
				}
				e.fill(e.s, numbered("k", 1200), func(string) string { return "v" })
				ends := func(n int) backend.Txn {
					v := fmt.Append(nil, n)
					return backend.Txn{Writes: []backend.Write{{Key: "a-first", Value: v}, {Key: "z-last", Value: v}}}
				}
				_, err := e.s.Commit(e.ctx, ends(0))
				e.noErr(err, "Commit")
				other := e.open()
				var stop atomic.Bool
				var writer sync.WaitGroup
				writer.Go(func() {
					for n := 1; !stop.Load(); n++ {
						if _, err := other.Commit(e.ctx, ends(n)); err != nil {
							e.Errorf("Commit: %v", err)
							return
						}
					}
				})
				defer writer.Wait()
				defer stop.Store(true)
				for range 10 {
					got := e.list(e.s, "", backend.ListOptions{})
					first, last := got[0], got[len(got)-1]
					if string(first.Value) != string(last.Value) || first.Revision != last.Revision {
						e.Fatalf("the list begins at %q and ends at %q", first.Value, last.Value)
					}
				}
			},
		},
		{
			name: "R16,R42/AtomicDeletePrefix: all keys go in one step",
			why:  "unset: it is many steps, but what it returns and what is left is right",
			run: func(e *env) {
				keys := numbered("d/k", 200)
				other := e.open()
				for range 5 {
					e.fill(e.s, keys, func(string) string { return "v" })
					var deleter sync.WaitGroup
					deleter.Go(func() {
						if n, err := other.DeletePrefix(e.ctx, "d"); err != nil || n != 200 {
							e.Errorf("DeletePrefix = %d, %v", n, err)
						}
					})
					for seen := 200; seen > 0; {
						got := e.list(e.s, "d", backend.ListOptions{KeysOnly: true})
						if e.caps.AtomicDeletePrefix && e.caps.SnapshotList && len(got) != 200 && len(got) != 0 {
							deleter.Wait()
							e.Fatalf("a list sees %d of 200 keys", len(got))
						}
						seen = len(got)
						if e.Failed() {
							break
						}
					}
					deleter.Wait()
				}
			},
		},
		{
			name: "R16/DeletePrefix spares what is written after it, and counts what it removed",
			run: func(e *env) {
				e.fill(e.s, numbered("d/k", 500), func(string) string { return "v" })
				var racers [2]int64
				var errs [2]error
				stores := []backend.Store{e.s, e.open()}
				e.together(2, func(i int) { racers[i], errs[i] = stores[i].DeletePrefix(e.ctx, "d") })
				e.noErr(errors.Join(errs[:]...), "DeletePrefix")
				if racers[0]+racers[1] != 500 {
					e.Errorf("two racers removed %d and %d of 500 keys", racers[0], racers[1])
				}
				e.put(e.s, "d/new", "v")
				e.lists(e.s, "d", backend.ListOptions{}, "d/new")
			},
		},
	}
}
