package backendtest_test

import (
	"context"
	"iter"

	"github.com/polykv/kv/backend"
)

// altered is a store with some methods replaced. A nil field is the reference.
type altered struct {
	backend.Store
	get    func(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error)
	put    func(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error)
	list   func(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error]
	commit func(ctx context.Context, t backend.Txn) (backend.TxnResult, error)
	watch  func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error)
	lock   func(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error)
	lease  func(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error)
	close  func() error
}

func (a *altered) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	if a.get != nil {
		return a.get(ctx, key, o)
	}
	return a.Store.Get(ctx, key, o)
}

func (a *altered) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if a.put != nil {
		return a.put(ctx, key, value, o)
	}
	return a.Store.Put(ctx, key, value, o)
}

func (a *altered) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	if a.list != nil {
		return a.list(ctx, prefix, o)
	}
	return a.Store.List(ctx, prefix, o)
}

func (a *altered) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	if a.commit != nil {
		return a.commit(ctx, t)
	}
	return a.Store.Commit(ctx, t)
}

func (a *altered) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if a.watch != nil {
		return a.watch(ctx, prefix, o)
	}
	return a.Store.Watch(ctx, prefix, o)
}

func (a *altered) Contend(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
	if a.lock != nil {
		return a.lock(ctx, name, o)
	}
	return a.Store.Contend(ctx, name, o)
}

func (a *altered) Register(ctx context.Context, key string, value []byte, o backend.RegisterOptions) (backend.Lease, error) {
	if a.lease != nil {
		return a.lease(ctx, key, value, o)
	}
	return a.Store.Register(ctx, key, value, o)
}

func (a *altered) Close() error {
	if a.close != nil {
		return a.close()
	}
	return a.Store.Close()
}

// alter returns a wrapper that sets up an altered store.
func alter(set func(a *altered)) func(backend.Store) backend.Store {
	return func(s backend.Store) backend.Store {
		a := &altered{Store: s}
		set(a)
		return a
	}
}

// filter wraps each watch in one whose events go through f, which returns what
// to deliver instead.
func filter(f func() func(backend.Event) []backend.Event) func(backend.Store) backend.Store {
	return alter(func(a *altered) {
		a.watch = func(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
			w, err := a.Store.Watch(ctx, prefix, o)
			if err != nil {
				return nil, err
			}
			return &filtered{Watch: w, f: f()}, nil
		}
	})
}

type filtered struct {
	backend.Watch
	f     func(backend.Event) []backend.Event
	queue []backend.Event
}

func (w *filtered) Next(ctx context.Context) (backend.Event, error) {
	for len(w.queue) == 0 {
		ev, err := w.Watch.Next(ctx)
		if err != nil {
			return ev, err
		}
		w.queue = w.f(ev)
	}
	ev := w.queue[0]
	w.queue = w.queue[1:]
	return ev, nil
}

// every calls f for each nth event and passes the others.
func every(n int, f func(backend.Event) []backend.Event) func() func(backend.Event) []backend.Event {
	return func() func(backend.Event) []backend.Event {
		seen := 0
		return func(ev backend.Event) []backend.Event {
			if ev.Key == "" {
				return []backend.Event{ev}
			}
			if seen++; seen%n == 0 {
				return f(ev)
			}
			return []backend.Event{ev}
		}
	}
}

func drop(backend.Event) []backend.Event { return nil }

// contender is one with some methods replaced.
type contender struct {
	backend.Contender
	token   func() uint64
	check   func() backend.Check
	release func(context.Context) error
	lost    <-chan struct{}
}

func (c contender) Token() uint64 {
	if c.token != nil {
		return c.token()
	}
	return c.Contender.Token()
}

func (c contender) Check() backend.Check {
	if c.check != nil {
		return c.check()
	}
	return c.Contender.Check()
}

func (c contender) Release(ctx context.Context) error {
	if c.release != nil {
		return c.release(ctx)
	}
	return c.Contender.Release(ctx)
}

func (c contender) Lost() <-chan struct{} {
	if c.lost != nil {
		return c.lost
	}
	return c.Contender.Lost()
}

func locks(change func(a *altered, c backend.Contender) backend.Contender) func(backend.Store) backend.Store {
	return alter(func(a *altered) {
		a.lock = func(ctx context.Context, name string, o backend.ContendOptions) (backend.Contender, error) {
			c, err := a.Store.Contend(ctx, name, o)
			if err != nil {
				return nil, err
			}
			return change(a, c), nil
		}
	})
}

// lease is one with some methods replaced.
type lease struct {
	backend.Lease
	renew, release func(context.Context) error
}

func (l lease) Renew(ctx context.Context) error {
	if l.renew != nil {
		return l.renew(ctx)
	}
	return l.Lease.Renew(ctx)
}

func (l lease) Release(ctx context.Context) error {
	if l.release != nil {
		return l.release(ctx)
	}
	return l.Lease.Release(ctx)
}
