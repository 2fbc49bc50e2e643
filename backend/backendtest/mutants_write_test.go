package backendtest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// writing are the mutants of reads, writes, lists and transactions.
func writing() []mutant {
	type list = iter.Seq2[backend.Entry, error]
	lists := func(f func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list) func(backend.Store) backend.Store {
		return alter(func(a *altered) {
			a.list = func(ctx context.Context, prefix string, o backend.ListOptions) list { return f(a, ctx, prefix, o) }
		})
	}
	puts := func(f func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error)) func(backend.Store) backend.Store {
		return alter(func(a *altered) {
			a.put = func(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
				return f(a, ctx, key, value, o)
			}
		})
	}
	return []mutant{
		{"a compare-and-set that reads, compares and writes", "^R11", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			if o.If != backend.AtRevision {
				return a.Store.Put(ctx, key, value, o)
			}
			ent, err := a.Store.Get(ctx, key, backend.GetOptions{})
			if err != nil || ent.Revision != o.Revision {
				return backend.Entry{}, backend.ErrConflict
			}
			return a.Store.Put(ctx, key, value, backend.PutOptions{TTL: o.TTL})
		})},
		{"an identical compare-and-set that changes nothing and says yes", "^R1[01]", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Get(ctx, key, backend.GetOptions{})
			if err == nil && o.If == backend.AtRevision && ent.Revision == o.Revision && bytes.Equal(ent.Value, value) {
				ent.Value = nil
				return ent, nil
			}
			return a.Store.Put(ctx, key, value, o)
		})},
		{"a conflict that is told as not found", "^R11", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Put(ctx, key, value, o)
			if errors.Is(err, backend.ErrConflict) {
				err = backend.ErrNotFound
			}
			return ent, err
		})},
		{"keys that are cleaned like paths", "^R2", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Put(ctx, strings.TrimLeft(path.Clean("/"+key), "/")+map[bool]string{true: "."}[path.Clean("/"+key) == "/"], value, o)
			ent.Key = key
			return ent, err
		})},
		{"names in lower case", "^R2", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Put(ctx, strings.ToLower(key), value, o)
			ent.Key = key
			return ent, err
		})},
		{"a value with an envelope", "^R7", alter(func(a *altered) {
			a.put = func(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
				return a.Store.Put(ctx, key, append([]byte("v1:"), value...), o)
			}
			a.get = func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
				ent, err := a.Store.Get(ctx, key, o)
				ent.Value = bytes.TrimPrefix(ent.Value, []byte("v1:"))
				return ent, err
			}
		})},
		{"values that share memory", "^R8", alter(func(a *altered) {
			var mu sync.Mutex
			cache := map[backend.Revision][]byte{}
			a.get = func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
				ent, err := a.Store.Get(ctx, key, o)
				mu.Lock()
				defer mu.Unlock()
				if v, ok := cache[ent.Revision]; ok {
					ent.Value = v
				}
				cache[ent.Revision] = ent.Value
				return ent, err
			}
		})},
		{"an empty value that is absent", "^R8", alter(func(a *altered) {
			a.get = func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
				ent, err := a.Store.Get(ctx, key, o)
				if err == nil && len(ent.Value) == 0 {
					return backend.Entry{}, backend.ErrNotFound
				}
				return ent, err
			}
		})},
		{"a limit that is not checked", "^R9", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			return a.Store.Put(ctx, key, value[:min(len(value), a.Capabilities().MaxValueBytes)], o)
		})},
		{"reads that are a moment old", "^R12", alter(func(a *altered) {
			var mu sync.Mutex
			old := map[string]backend.Entry{}
			a.get = func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
				ent, err := a.Store.Get(ctx, key, o)
				mu.Lock()
				defer mu.Unlock()
				was, ok := old[key]
				old[key] = ent
				if ok && err == nil && len(old)%2 == 1 {
					return was, nil
				}
				return ent, err
			}
		})},
		{"stale lists that do not wait for a revision", "^R12", lists(func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list {
			if o.Stale {
				o.AtLeast = 0
			}
			return a.Store.List(ctx, prefix, o)
		})},
		{"an empty list that is an error", "^R15", lists(func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list {
			return func(yield func(backend.Entry, error) bool) {
				empty := true
				for ent, err := range a.Store.List(ctx, prefix, o) {
					if empty = false; !yield(ent, err) {
						return
					}
				}
				if empty {
					yield(backend.Entry{}, backend.ErrNotFound)
				}
			}
		})},
		{"a list of foo that covers foobar", "^R3", lists(func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list {
			return func(yield func(backend.Entry, error) bool) {
				for ent, err := range a.Store.List(ctx, "", o) {
					if strings.HasPrefix(ent.Key, prefix) && !yield(ent, err) {
						return
					}
				}
			}
		})},
		{"a list in the order of a tree's walk", "^R14", lists(func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list {
			return func(yield func(backend.Entry, error) bool) {
				var after []backend.Entry // a-b after a/…
				for ent, err := range a.Store.List(ctx, prefix, o) {
					if strings.Contains(ent.Key, "-") {
						after = append(after, ent)
					} else if !yield(ent, err) {
						return
					}
				}
				for _, ent := range after {
					if !yield(ent, nil) {
						return
					}
				}
			}
		})},
		{"a list that repeats a key at a page's end", "^R14", lists(func(a *altered, ctx context.Context, prefix string, o backend.ListOptions) list {
			return func(yield func(backend.Entry, error) bool) {
				n := 0
				for ent, err := range a.Store.List(ctx, prefix, o) {
					if n++; !yield(ent, err) || n == 1000 && !yield(ent, err) {
						return
					}
				}
			}
		})},
		{"a list whose loop body blocks writers", "^R14", alter(func(a *altered) {
			var mu sync.RWMutex
			a.list = func(ctx context.Context, prefix string, o backend.ListOptions) list {
				return func(yield func(backend.Entry, error) bool) {
					mu.RLock()
					defer mu.RUnlock()
					a.Store.List(ctx, prefix, o)(yield)
				}
			}
			a.put = func(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
				if !mu.TryLock() {
					return backend.Entry{}, errors.New("deadlock")
				}
				defer mu.Unlock()
				return a.Store.Put(ctx, key, value, o)
			}
		})},
		{"bookkeeping among the keys", "^R6", alter(func(a *altered) {
			a.lock = func(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
				_, _ = a.Store.Put(ctx, "__locks/"+name, nil, backend.PutOptions{})
				return a.Store.Contend(ctx, name, o)
			}
		})},
		{"a transaction in several steps", "^R27", alter(func(a *altered) {
			a.commit = func(ctx context.Context, t backend.Txn) (res backend.TxnResult, err error) {
				for _, part := range []int{0, 1} {
					step := backend.Txn{}
					if part == 0 {
						step.Checks = t.Checks
					}
					for i, w := range t.Writes {
						if i%2 == part {
							step.Writes = append(step.Writes, w)
						}
					}
					got, err := a.Store.Commit(ctx, step)
					if err != nil {
						return res, err
					}
					res.Revision = cmp.Or(got.Revision, res.Revision)
					res.Entries = append(res.Entries, got.Entries...)
				}
				return res, nil
			}
		})},
		{"a failed check that names the wrong one", "^R27", alter(func(a *altered) {
			a.commit = func(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
				res, err := a.Store.Commit(ctx, t)
				var ce *backend.CheckError
				if errors.As(err, &ce) {
					err = &backend.CheckError{Index: 0, Key: t.Checks[0].Key, Err: ce.Err}
				}
				return res, err
			}
		})},
		{"a lost lock that is told after another check", "^R27", alter(func(a *altered) {
			a.commit = func(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
				res, err := a.Store.Commit(ctx, t)
				if !errors.Is(err, backend.ErrLockLost) {
					return res, err
				}
				for i, c := range t.Checks {
					if c.If == backend.LockHeld {
						continue
					}
					if _, other := a.Store.Commit(ctx, backend.Txn{Checks: []backend.Check{c}}); other != nil {
						return res, &backend.CheckError{Index: i, Key: c.Key, Err: c.If.Failed()}
					}
				}
				return res, err
			}
		})},
		{"checks that are done before the transaction", "^R27", alter(func(a *altered) {
			a.commit = func(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
				if _, err := a.Store.Commit(ctx, backend.Txn{Checks: t.Checks}); err != nil {
					return backend.TxnResult{}, err
				}
				if len(t.Writes) == 0 {
					return backend.TxnResult{}, nil
				}
				return a.Store.Commit(ctx, backend.Txn{Writes: t.Writes})
			}
		})},
		{"a TTL that is ignored", "^timed$/^R28", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			o.TTL = 0
			return a.Store.Put(ctx, key, value, o)
		})},
		{"a TTL that is halved", "^timed$/^R28", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			o.TTL = max(o.TTL/2, min(o.TTL, time.Second))
			return a.Store.Put(ctx, key, value, o)
		})},
		{"a put that keeps the old TTL", "^timed$/^R28", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Get(ctx, key, backend.GetOptions{})
			if err == nil && o.If == backend.Always && o.TTL == 0 && !ent.Expires.IsZero() {
				return a.Store.Put(ctx, key, value, backend.PutOptions{If: backend.AtRevision, Revision: ent.Revision, KeepTTL: true})
			}
			return a.Store.Put(ctx, key, value, o)
		})},
		{"a context that is ignored", "^R38", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			return a.Store.Put(context.WithoutCancel(ctx), key, value, o)
		})},
		{"a context whose cause is dropped", "^R38", alter(func(a *altered) {
			a.get = func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
				ent, err := a.Store.Get(ctx, key, o)
				if err != nil && ctx.Err() != nil {
					err = ctx.Err()
				}
				return ent, err
			}
		})},
		{"a cancelled write that was applied and does not say so", "^R36", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Put(context.WithoutCancel(ctx), key, value, o)
			time.Sleep(200 * time.Microsecond) // the reply is on its way
			if ctx.Err() != nil {
				return backend.Entry{}, backend.ContextError(ctx)
			}
			return ent, err
		})},
		{"an error that shows the value", "^R35", puts(func(a *altered, ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
			ent, err := a.Store.Put(ctx, key, value, o)
			if err != nil {
				err = fmt.Errorf("put %q: %w", value, err)
			}
			return ent, err
		})},
	}
}
