package backendtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

func readCases() []testCase {
	return []testCase{
		{
			name: "R13/an absent key is ErrNotFound",
			run: func(e *env) {
				e.absent(e.s, "k")
				e.put(e.s, "k/deeper", "v")
				e.absent(e.s, "k")
				e.wantErr(e.s.Delete(e.ctx, "k", backend.DeleteOptions{}), "Delete", backend.ErrNotFound)
			},
		},
		{
			name: "R13/GetMany answers in the order of the request, with zero entries for what is absent",
			run: func(e *env) {
				e.put(e.s, "a", "1")
				e.put(e.s, "b", "2")
				e.put(e.s, "dir/x", "3")
				keys := []string{"b", "absent", "a", "dir", "b", "dir/x"}
				got, err := e.s.GetMany(e.ctx, keys, backend.GetOptions{})
				e.noErr(err, "GetMany")
				want := []string{"2", "", "1", "", "2", "3"}
				if len(got) != len(want) {
					e.Fatalf("GetMany returned %d entries for %d keys", len(got), len(want))
				}
				for i, ent := range got {
					if want[i] == "" {
						if ent.Revision != 0 || ent.Key != "" || ent.Value != nil {
							e.Errorf("GetMany: at absent %q stands %+v, want the zero Entry", keys[i], ent)
						}
					} else if ent.Key != keys[i] || string(ent.Value) != want[i] || ent.Revision == 0 {
						e.Errorf("GetMany: at %q stands %+v", keys[i], ent)
					}
				}
				if got, err := e.s.GetMany(e.ctx, nil, backend.GetOptions{}); err != nil || len(got) != 0 {
					e.Errorf("GetMany of no keys = %v, %v", got, err)
				}
			},
		},
		{
			name: "R13/GetMany takes more keys than a page or a transaction holds",
			run: func(e *env) {
				keys := numbered("k", 600)
				e.fill(e.s, keys[:300], func(k string) string { return k })
				got, err := e.s.GetMany(e.ctx, keys, backend.GetOptions{})
				e.noErr(err, "GetMany")
				if len(got) != len(keys) {
					e.Fatalf("GetMany returned %d entries for %d keys", len(got), len(keys))
				}
				for i, ent := range got {
					if found := ent.Revision != 0; found != (i < 300) || found && string(ent.Value) != keys[i] {
						e.Fatalf("GetMany: at %q stands %+v", keys[i], ent)
					}
				}
			},
		},
		{
			name: "R13/Ping answers, below an empty root too",
			why:  "the right to ping outside the permitted prefix is one that users do not have",
			run: func(e *env) {
				e.noErr(e.s.Ping(e.ctx), "Ping")
				e.noErr(e.open().Ping(e.ctx), "Ping")
			},
		},
		{
			name: "R12,R42/LinearizableReads: a read reflects what another store completed before",
			why:  "unset: asking for the revision of that write gives the same",
			run: func(e *env) {
				a, b := e.s, e.open()
				for i := range 50 {
					v := strconv.Itoa(i)
					rev := e.put(a, "k", v).Revision
					var o backend.GetOptions
					if !e.caps.LinearizableReads {
						o.AtLeast = rev
					}
					ent, err := b.Get(e.ctx, "k", o)
					e.noErr(err, "Get")
					if string(ent.Value) != v {
						e.Fatalf("after Put(%q) the other store reads %q", v, ent.Value)
					}
					many, err := b.GetMany(e.ctx, []string{"k"}, o)
					e.noErr(err, "GetMany")
					if string(many[0].Value) != v {
						e.Fatalf("after Put(%q) the other store's GetMany reads %q", v, many[0].Value)
					}
					for ent, err := range b.List(e.ctx, "", backend.ListOptions{GetOptions: o}) {
						e.noErr(err, "List")
						if string(ent.Value) != v {
							e.Fatalf("after Put(%q) the other store's List reads %q", v, ent.Value)
						}
					}
					a, b = b, a
				}
			},
		},
		{
			name: "R12/a store reads its own deletes",
			run: func(e *env) {
				for range 30 {
					e.put(e.s, "k", "v")
					e.del(e.s, "k")
					e.absent(e.s, "k")
					e.lists(e.s, "", backend.ListOptions{})
				}
			},
		},
		{
			name: "R12/AtLeast makes a stale read no older than a revision",
			run: func(e *env) {
				a, b := e.s, e.open()
				for i := range 50 {
					v := strconv.Itoa(i)
					o := backend.GetOptions{Stale: true, AtLeast: e.put(a, fmt.Sprintf("k%d", i%5), v).Revision}
					ent, err := b.Get(e.ctx, fmt.Sprintf("k%d", i%5), o)
					e.noErr(err, "Get")
					if string(ent.Value) != v {
						e.Fatalf("Get(%+v) = %q, want %q", o, ent.Value, v)
					}
				}
			},
		},
		{
			name: "R12/Stale is accepted everywhere and sees a write in the end",
			run: func(e *env) {
				e.put(e.s, "k", "v")
				stale := backend.GetOptions{Stale: true}
				e.eventually("Get", func() bool {
					ent, err := e.s.Get(e.ctx, "k", stale)
					if err != nil && !errors.Is(err, backend.ErrNotFound) {
						e.Fatalf("stale Get: %v", err)
					}
					return string(ent.Value) == "v"
				})
				e.eventually("GetMany", func() bool {
					many, err := e.s.GetMany(e.ctx, []string{"k"}, stale)
					e.noErr(err, "stale GetMany")
					return string(many[0].Value) == "v"
				})
				e.eventually("List", func() bool {
					return len(e.list(e.s, "", backend.ListOptions{GetOptions: stale})) == 1
				})
			},
		},
		{
			name: "R12/AtLeast waits for a revision that the store has not reached, until ctx ends",
			run: func(e *env) {
				rev := e.put(e.s, "k", "v").Revision
				var reads sync.WaitGroup
				for _, stale := range []bool{false, true} {
					ahead := backend.GetOptions{Stale: stale, AtLeast: rev + 1<<40} // weeks, where revisions count microseconds
					for name, read := range map[string]func(context.Context) error{
						"Get":     func(ctx context.Context) error { _, err := e.s.Get(ctx, "k", ahead); return err },
						"GetMany": func(ctx context.Context) error { _, err := e.s.GetMany(ctx, []string{"k"}, ahead); return err },
						"List":    func(ctx context.Context) error { return listed(ctx, e.s, "", backend.ListOptions{GetOptions: ahead}) },
						"List of keys": func(ctx context.Context) error {
							return listed(ctx, e.s, "", backend.ListOptions{GetOptions: ahead, KeysOnly: true})
						},
						"List of children": func(ctx context.Context) error {
							return listed(ctx, e.s, "", backend.ListOptions{GetOptions: ahead, Children: true})
						},
					} {
						reads.Go(func() {
							ctx, cancel := context.WithTimeout(e.ctx, never)
							defer cancel()
							err := read(ctx)
							if ctx.Err() == nil || !errors.Is(err, context.DeadlineExceeded) {
								e.Errorf("%s of the future (stale: %v) returned %v, its context ending with %v", name, stale, err, ctx.Err())
							}
						})
					}
				}
				reads.Wait()
			},
		},
		{
			name: "R12/AtLeast wakes when the revision is reached",
			run: func(e *env) {
				rev := e.put(e.s, "k", "old").Revision
				got := make(chan error, 1)
				go func() {
					ent, err := e.s.Get(e.ctx, "k", backend.GetOptions{AtLeast: rev + 1})
					if err == nil && ent.Revision <= rev {
						// Another root's write may have carried the store
						// beyond, so an old value is right; then this is all
						// that can be shown.
						e.Logf("the store was at revision %d already", rev+1)
					}
					got <- err
				}()
				e.put(e.open(), "k", "new")
				select {
				case err := <-got:
					e.noErr(err, "Get")
				case <-time.After(e.patience):
					e.Fatal("Get does not return although the revision is reached")
				}
			},
		},
	}
}
