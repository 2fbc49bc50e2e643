package locktest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

func readers(e *env) {
	s, other := e.open(), e.open()
	r1, err := lock.RLock(e.ctx(), s, "l")
	e.must("first reader", err)
	r2, err := lock.TryRLock(e.ctx(), other, "l")
	e.must("second reader", err)
	if _, err := lock.TryLock(e.ctx(), other, "l"); !errors.Is(err, kv.ErrLocked) {
		e.Fatalf("a writer beside readers: %v", err)
	}
	writer := queueUp(e, e.ctx(), "l")
	if _, err := lock.TryRLock(e.ctx(), other, "l"); !errors.Is(err, kv.ErrLocked) {
		e.Fatalf("a reader ahead of a waiting writer: %v", err)
	}
	e.must("unlock", r1.Unlock(e.ctx()))
	never(e, "the writer was admitted beside a reader", writer)
	e.must("unlock", r2.Unlock(e.ctx()))
	w := soon(e, "the writer", writer)
	e.must("unlock", w.Unlock(e.ctx()))
	r3, err := lock.RLock(e.ctx(), other, "l")
	e.must("a reader after the writer", err)
	e.must("unlock", r3.Unlock(e.ctx()))
}

func semaphore(e *env) {
	const slots, users, each = 3, 8, 5
	clients := []*kv.Store{e.open(), e.open()}
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			m := lock.NewSemaphore(clients[i%len(clients)], "s", slots)
			for range each {
				h, err := m.Acquire(e.ctx())
				if err != nil {
					e.Errorf("acquire: %v", err)
					return
				}
				now := inside.Add(1)
				for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
				}
				inside.Add(-1)
				if err := h.Unlock(e.ctx()); err != nil {
					e.Errorf("release: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > slots {
		e.Errorf("%d held a semaphore of %d", most.Load(), slots)
	}
	m := lock.NewSemaphore(clients[0], "s", slots)
	var held lock.Set
	for i := range slots {
		h, err := m.TryAcquire(e.ctx())
		e.must(fmt.Sprintf("slot %d", i), err)
		held = append(held, h)
	}
	if _, err := m.TryAcquire(e.ctx()); !errors.Is(err, kv.ErrLocked) {
		e.Errorf("slot %d of %d: %v", slots, slots, err)
	}
	e.must("unlock", held.Unlock(e.ctx()))
	if _, err := lock.NewSemaphore(clients[0], "s", 0).Acquire(e.ctx()); !errors.Is(err, kv.ErrInvalid) {
		e.Errorf("a semaphore without slots: %v", err)
	}
}

func overlapping(e *env) {
	clients := []*kv.Store{e.open(), e.open()}
	names := []string{"a", "b", "c", "/a/"} // the last is the first
	var inside atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			want := append(append([]string{}, names[i%len(names):]...), names[:i%len(names)]...)
			for range 3 {
				set, err := lock.LockAll(e.ctx(), clients[i%len(clients)], want)
				if err != nil {
					e.Errorf("lock all: %v", err)
					return
				}
				if len(set) != 3 || len(set.Checks()) != 3 {
					e.Errorf("%d locks for three names", len(set))
				}
				if inside.Add(1) != 1 {
					e.Error("two hold the same set")
				}
				inside.Add(-1)
				if err := set.Unlock(e.ctx()); err != nil {
					e.Errorf("unlock: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func election(e *env) {
	observer := lock.NewElection(e.open(), "e")
	if _, err := observer.Leader(e.ctx()); !errors.Is(err, kv.ErrNotFound) {
		e.Fatalf("the leader of an election that nobody stood for: %v", err)
	}
	seen := make(chan lock.Leader, 100)
	watching, stop := context.WithCancel(e.ctx())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for l, err := range observer.Observe(watching) {
			if err != nil {
				if watching.Err() == nil {
					e.Errorf("observe: %v", err)
				}
				return
			}
			seen <- l
		}
	})
	var last uint64
	for i := range 3 {
		name := fmt.Sprintf("candidate %d", i)
		l, err := lock.NewElection(e.open(), "e").Campaign(e.ctx(), name)
		e.must("campaign", err)
		if got := soon(e, "the observer", seen); got.Value != name || got.Token != l.Token() || got.Token <= last {
			e.Fatalf("the observer saw %+v of %s, token %d, after %d", got, name, l.Token(), last)
		}
		now, err := observer.Leader(e.ctx())
		e.must("leader", err)
		if now.Value != name || now.Token != l.Token() {
			e.Errorf("the leader is %+v, want %s", now, name)
		}
		e.must("proclaim", l.Proclaim(e.ctx(), name+" speaks"))
		if got := soon(e, "the proclamation", seen); got.Value != name+" speaks" || got.Token != l.Token() {
			e.Errorf("the observer saw %+v", got)
		}
		last = l.Token()
		e.must("resign", l.Resign(e.ctx()))
	}
}

func lead(e *env) {
	var cut shut
	s := e.open(kv.Intercept(cut.intercept))
	lease := shortest(s)
	led := make(chan uint64, 1)
	over := make(chan error, 1)
	terms := 0
	go func() {
		over <- lock.NewElection(s, "e", lock.Lease(lease)).Lead(e.ctx(), "v", func(ctx context.Context, l *lock.Leadership) error {
			terms++
			led <- l.Token()
			if terms == 1 {
				<-ctx.Done() // until the leadership is lost
				return nil
			}
			return errors.New("enough")
		})
	}()
	first := soon(e, "the first term", led)
	cut.off()
	var second uint64
	select {
	case second = <-led:
	case <-e.ctx().Done():
		e.Fatal("the leader did not stand again after a loss")
	}
	if second <= first {
		e.Errorf("the second term's token is %d, the first's %d", second, first)
	}
	if err := soon(e, "the end", over); err == nil || err.Error() != "enough" {
		e.Errorf("Lead returned %v", err)
	}
}
