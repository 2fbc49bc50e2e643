package locktest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// exclusion takes one lock many times over, from several clients, which are
// replaced by new ones half way: tokens go on to grow.
func exclusion(e *env) {
	const contenders = 32
	n := e.h.Acquisitions
	if n == 0 {
		n = 1000
	}
	var last atomic.Uint64
	for _, half := range []int{n / 2, n - n/2} {
		clients := []*kv.Store{e.open(), e.open(), e.open(), e.open()}
		contend(e, clients, contenders, half, &last)
		for _, s := range clients {
			e.must("close", s.Close())
		}
	}
}

// contend has contenders of clients take one lock n times, one at a time, with
// tokens above last that grow.
func contend(e *env, clients []*kv.Store, contenders, n int, last *atomic.Uint64) {
	var inside atomic.Int32
	var taken, held atomic.Int64
	var wg sync.WaitGroup
	ctx := e.ctx()
	for i := range contenders {
		wg.Go(func() {
			s := clients[i%len(clients)]
			for taken.Add(1) <= int64(n) {
				err := lock.Do(ctx, s, "a/lock", func(ctx context.Context, h *lock.Held) error {
					if inside.Add(1) != 1 {
						return errors.New("two holders at a time")
					}
					defer inside.Add(-1)
					held.Add(1)
					if was := last.Swap(h.Token()); was >= h.Token() {
						return fmt.Errorf("token %d after %d", h.Token(), was)
					}
					if h.Token()%8 != 0 {
						return nil // the store's own word on it is dear
					}
					_, err := s.Put(ctx, "a/fenced", fmt.Append(nil, h.Token()), kv.If(h.Check()))
					return err
				})
				if err != nil {
					e.Errorf("contender %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := held.Load(); got != int64(n) && !e.Failed() {
		e.Errorf("held %d times, want %d", got, n)
	}
}

// queueUp starts a Lock, with a client of its own, and returns when its place
// in the queue is taken.
func queueUp(e *env, ctx context.Context, name string) <-chan *lock.Held {
	e.Helper()
	placed := make(chan struct{})
	requests := 0
	s := e.open(kv.Intercept(func(ctx context.Context, call kv.Call, next func(context.Context) error) error {
		if call.Op == kv.OpLock {
			// The first makes the place, the second waits for admission.
			if requests++; requests == 2 {
				close(placed)
			}
		}
		return next(ctx)
	}))
	got := make(chan *lock.Held, 1)
	over := make(chan struct{})
	e.Cleanup(func() { <-over }) // before the client closes
	go func() {
		defer close(over)
		if h, err := lock.Lock(ctx, s, name); err == nil {
			got <- h
		}
	}()
	soon(e, "a place in the queue", placed)
	return got
}

func arrival(e *env) {
	if !e.open().Capabilities().FairLock {
		e.Log("the store does not order contenders: FairLock is unset")
		return
	}
	s := e.open()
	first, err := lock.Lock(e.ctx(), s, "l")
	e.must("lock", err)
	var queue []<-chan *lock.Held
	for range 4 {
		queue = append(queue, queueUp(e, e.ctx(), "l"))
	}
	e.must("unlock", first.Unlock(e.ctx()))
	for i, next := range queue {
		h := soon(e, fmt.Sprintf("contender %d", i), next)
		for j, other := range queue[i+1:] {
			if len(other) > 0 {
				e.Fatalf("contender %d was admitted beside %d", i+1+j, i)
			}
		}
		e.must("unlock", h.Unlock(e.ctx()))
	}
}

func cancelled(e *env) {
	s, other := e.open(), e.open()
	held, err := lock.Lock(e.ctx(), s, "l")
	e.must("lock", err)
	why := errors.New("the user went home")
	ctx, cancel := context.WithCancelCause(e.ctx())
	failed := make(chan error, 1)
	go func() {
		_, err := lock.Lock(ctx, other, "l")
		failed <- err
	}()
	never(e, "a second holder was admitted", failed)
	behind := queueUp(e, e.ctx(), "l")
	cancel(why)
	start := time.Now()
	err = soon(e, "the cancelled wait", failed)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		e.Errorf("the error %v matches not both context.Canceled and the cause", err)
	}
	if d := time.Since(start); d > 2*time.Second+e.stalls.Since(start) {
		e.Errorf("the cancelled wait took %v to end", d)
	}
	e.must("unlock", held.Unlock(e.ctx()))
	next := soon(e, "the one behind it", behind)
	e.must("unlock", next.Unlock(e.ctx()))
}

func try(e *env) {
	s, other := e.open(), e.open()
	held, err := lock.TryLock(e.ctx(), s, "l")
	e.must("first TryLock", err)
	for range 3 {
		if _, err := lock.TryLock(e.ctx(), other, "l"); !errors.Is(err, kv.ErrLocked) {
			e.Fatalf("TryLock of a held lock: %v", err)
		}
	}
	e.must("unlock", held.Unlock(e.ctx()))
	again, err := lock.TryLock(e.ctx(), other, "l")
	e.must("TryLock of a free lock", err)
	if again.Token() <= held.Token() {
		e.Errorf("token %d after %d", again.Token(), held.Token())
	}
	e.must("unlock", again.Unlock(e.ctx()))
}

func unlock(e *env) {
	s := e.open()
	held, err := lock.Lock(e.ctx(), s, "l")
	e.must("lock", err)
	ended, cancel := context.WithCancel(e.ctx())
	cancel()
	first := held.Unlock(ended)
	if second := held.Unlock(e.ctx()); !errors.Is(second, first) && second != first {
		e.Errorf("Unlock: %v, and again: %v", first, second)
	}
	if held.Err() != nil {
		e.Errorf("Err after Unlock: %v", held.Err())
	}
	soon(e, "Done after Unlock", held.Done())
	// The release was made with the ended context too.
	next, err := lock.Lock(e.ctx(), e.open(), "l")
	e.must("lock after it", err)
	if _, err := s.Put(e.ctx(), "k", nil, kv.If(held.Check())); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("a write under the released lock: %v", err)
	}
	e.must("unlock", next.Unlock(e.ctx()))
}

// lost tries again if the machine stood still while the lease ended: what two
// goroutines then learn of the time, they learn in any order.
func lost(e *env) {
	for range 5 {
		if lose(e) {
			return
		}
	}
	e.Error("the holder was never told before another held the lock")
}

// lose reports whether the holder was told in time.
func lose(e *env) (told bool) {
	var cut shut
	s, other := e.open(kv.Intercept(cut.intercept)), e.open()
	lease := shortest(s)
	held, err := lock.Lock(e.ctx(), s, "l", lock.Lease(lease))
	e.must("lock", err)
	_, err = s.Put(e.ctx(), "k", []byte("held"), kv.If(held.Check()))
	e.must("a write while held", err)
	work := held.Context(e.ctx())
	start := time.Now()
	cut.off()
	next, err := lock.Lock(e.ctx(), other, "l", lock.Lease(lease))
	e.must("lock by another", err)
	if next.Token() <= held.Token() {
		e.Errorf("token %d after %d", next.Token(), held.Token())
	}
	// Whoever loses the lock knows before somebody else can have it.
	select {
	case <-work.Done():
	default:
		if still := e.stalls.Since(start); still > 0 {
			e.Logf("the holder was not told before another held the lock, on a machine that stood still for %v", still)
			soon(e, "telling the holder", work.Done())
			e.must("unlock", next.Unlock(e.ctx()))
			return false
		}
		e.Errorf("the holder was not told though another holds the lock, %v after its last renewal", time.Since(start))
	}
	if cause := context.Cause(work); !errors.Is(cause, kv.ErrLockLost) {
		e.Errorf("the cause is %v", cause)
	}
	if !errors.Is(held.Err(), kv.ErrLockLost) {
		e.Errorf("Err: %v", held.Err())
	}
	if _, err := s.Put(e.ctx(), "k", []byte("late"), kv.If(held.Check())); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("a late write: %v", err)
	}
	if err := held.Unlock(e.ctx()); !errors.Is(err, kv.ErrLockLost) {
		e.Errorf("Unlock of a lost lock: %v", err)
	}
	got, err := other.Get(e.ctx(), "k")
	e.must("get", err)
	if string(got.Value) != "held" {
		e.Errorf("the late write was applied: %q", got.Value)
	}
	e.must("unlock", next.Unlock(e.ctx()))
	return true
}

func closing(e *env) {
	s := kv.New(e.h.Open(e.T, e.root))
	held, err := lock.Lock(e.ctx(), s, "l")
	e.must("lock", err)
	waiting := make(chan error, 1)
	go func() {
		h, err := lock.Lock(e.ctx(), s, "l")
		if err == nil {
			// Admitted by the release that Close made, and released itself.
			<-h.Done()
			err = kv.ErrClosed
		}
		waiting <- err
	}()
	never(e, "a second holder was admitted", waiting)
	e.must("close", s.Close())
	if err := soon(e, "the one who waited", waiting); !errors.Is(err, kv.ErrClosed) {
		e.Errorf("a lock of a closed store: %v", err)
	}
	soon(e, "Done after Close", held.Done())
	_ = held.Unlock(e.ctx()) // whatever it returns, it does not hang
	next, err := lock.Lock(e.ctx(), e.open(), "l")
	e.must("lock by another", err)
	e.must("unlock", next.Unlock(e.ctx()))
}
