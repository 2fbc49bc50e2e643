package backendtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
)

func contendCases() []testCase {
	return []testCase{
		{
			name: "R30/a lock that nobody holds is had at once",
			run: func(e *env) {
				begin := time.Now()
				c := e.contend(e.s, "l", backend.ContendOptions{Lease: 30 * time.Second})
				e.admitted(c)
				e.admitted(c) // Wait can be repeated
				if c.Lease() < 30*time.Second {
					e.Errorf("asked for a lease of 30 s, got %v", c.Lease())
				}
				least := e.contend(e.s, "least", backend.ContendOptions{Lease: e.ttl()})
				if least.Lease() < max(e.ttl(), e.caps.MinLease) {
					e.Errorf("asked for %v, MinLease is %v, got %v", e.ttl(), e.caps.MinLease, least.Lease())
				}
				e.release(least)
				if r := c.Renewed(); r.Before(begin) || r.After(time.Now()) {
					e.Errorf("renewed at %v, want between %v and now", r, begin)
				}
				before := c.Renewed()
				e.noErr(c.Renew(e.ctx), "Renew")
				if !c.Renewed().After(before) {
					e.Errorf("Renew left Renewed at %v", before)
				}
				select {
				case <-c.Lost():
					e.Errorf("Lost is closed while the lock is held")
				default:
				}
				e.fenced(e.open(), c, "1")
				e.release(c)
				e.refused(e.s, c)
			},
		},
		{
			name: "R30,R42/FairLock: admission in order of arrival, one for each release",
			why:  "unset: one at a time all the same",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open(), e.open()}
				var queue []backend.Contender
				for i := range 5 {
					queue = append(queue, e.contend(stores[i%3], "l", backend.ContendOptions{}))
				}
				if !e.caps.FairLock {
					e.oneByOne(queue)
					return
				}
				var last uint64
				for i, c := range queue {
					token := e.admitted(c)
					if token <= last {
						e.Errorf("holder %d has token %d after %d", i, token, last)
					}
					last = token
					for _, later := range queue[i+1:] {
						e.waits(later)
					}
					e.release(c)
				}
			},
		},
		{
			name: "R30/one that waits is woken by the release",
			run: func(e *env) {
				a := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(a)
				b := e.contend(e.open(), "l", backend.ContendOptions{})
				got := make(chan error, 1)
				go func() { got <- b.Wait(e.ctx) }()
				select {
				case err := <-got:
					e.Fatalf("Wait returned %v while the lock is held", err)
				case <-time.After(never):
				}
				e.release(a)
				select {
				case err := <-got:
					e.noErr(err, "Wait")
				case <-time.After(e.patience):
					e.Fatal("the release woke nobody")
				}
				e.fenced(e.s, b, "b")
				e.refused(e.s, a)
			},
		},
		{
			name: "R30/Try has the lock or is ErrLocked, and leaves nothing behind",
			run: func(e *env) {
				other := e.open()
				a := e.contend(e.s, "l", backend.ContendOptions{Try: true})
				e.admitted(a)
				for range 10 {
					e.wantErr(e.tries(other, "l"), "Try of a held lock", backend.ErrLocked)
				}
				b := e.contend(other, "l", backend.ContendOptions{})
				e.release(a)
				e.admitted(b) // no remainder of a failed Try stands before b
				e.release(b)
				e.noErr(e.tries(other, "l"), "Try of a free lock")
				e.noErr(e.tries(e.s, "l"), "Try of a free lock")
			},
		},
		{
			name: "R30/of many that try at once at most one has the lock",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				for range 5 {
					held := make([]backend.Contender, 6)
					e.together(len(held), func(i int) {
						c, err := stores[i%2].Contend(e.ctx, "l", backend.ContendOptions{Lease: time.Minute, Try: true})
						if err != nil && !errors.Is(err, backend.ErrLocked) {
							e.Errorf("Try: %v", err)
						}
						held[i] = c
					})
					held = slices.DeleteFunc(held, func(c backend.Contender) bool { return c == nil })
					if len(held) > 1 {
						e.Errorf("%d hold one lock", len(held))
					}
					for _, c := range held {
						e.release(c)
					}
					e.eventually("the lock is free", func() bool { return e.tries(e.s, "l") == nil })
				}
			},
		},
		{
			name: "R30/one that gives up its place lets the others by",
			run: func(e *env) {
				a, b, c := e.contend(e.s, "l", backend.ContendOptions{}), e.contend(e.open(), "l", backend.ContendOptions{}), e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(a)
				e.release(b)
				e.wantErr(b.Wait(e.ctx), "Wait without a place", backend.ErrLockLost)
				e.waits(c)
				e.release(a)
				e.admitted(c)
			},
		},
		{
			name: "R30/the end of Wait's context keeps the place",
			run: func(e *env) {
				if !e.caps.FairLock {
					return // then there is no place to keep
				}
				a, b := e.contend(e.s, "l", backend.ContendOptions{}), e.contend(e.open(), "l", backend.ContendOptions{})
				e.admitted(a)
				cause := errors.New("not now")
				ctx, cancel := context.WithCancelCause(e.ctx)
				got := make(chan error, 1)
				go func() { got <- b.Wait(ctx) }()
				cancel(cause)
				e.soon("Wait", func() { e.wantErr(<-got, "Wait", context.Canceled, cause) })
				c := e.contend(e.s, "l", backend.ContendOptions{})
				e.release(a)
				e.admitted(b)
				e.waits(c)
			},
		},
		{
			name: "R30/a Contend that is cancelled at any moment leaves nothing behind",
			why:  "an etcd mutex leaves an orphan that blocks everyone when its context ends during the request",
			run: func(e *env) {
				holder := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(holder)
				other := e.open()
				start := time.Now()
				probe := e.contend(other, "l", backend.ContendOptions{})
				took := time.Since(start)
				e.release(probe)
				for i := range 60 {
					ctx, cancel := context.WithCancel(e.ctx)
					timer := time.AfterFunc(rand.N(2*took), cancel)
					c, err := other.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute, Try: i%3 == 0})
					timer.Stop()
					cancel()
					switch {
					case err == nil:
						e.release(c)
					case !errors.Is(err, backend.ErrLocked):
						e.wantErr(err, "Contend", context.Canceled)
					}
				}
				e.release(holder)
				e.within(2*time.Second+lag, "the lock is free", func() bool {
					err := e.tries(e.s, "l")
					if err != nil && !errors.Is(err, backend.ErrLocked) {
						e.Fatalf("Try: %v", err)
					}
					return err == nil
				})
			},
		},
		{
			name: "R30/two contenders of one store exclude each other",
			why:  "two mutexes on one etcd session both acquire",
			run: func(e *env) {
				a, b := e.contend(e.s, "l", backend.ContendOptions{}), e.contend(e.s, "l", backend.ContendOptions{})
				e.oneByOne([]backend.Contender{a, b})
			},
		},
		{
			name: "R30/a lock guards what it is for",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				var inside, total atomic.Int32
				var last atomic.Uint64
				e.together(8, func(i int) {
					for range 4 {
						c, err := stores[i%2].Contend(e.ctx, "l", backend.ContendOptions{Lease: time.Minute})
						if err == nil {
							err = c.Wait(e.ctx)
						}
						if err != nil {
							e.Errorf("locking: %v", err)
							return
						}
						if n := inside.Add(1); n != 1 {
							e.Errorf("%d hold the lock", n)
						}
						if was := last.Swap(c.Token()); was >= c.Token() {
							e.Errorf("token %d after %d", c.Token(), was)
						}
						total.Add(1)
						inside.Add(-1)
						if err := c.Release(e.ctx); err != nil {
							e.Errorf("Release: %v", err)
						}
					}
				})
				if total.Load() != 32 {
					e.Errorf("held %d times, want 32", total.Load())
				}
			},
		},
		{
			name: "R34,R42/CrossProcessLock: clients that share nothing but the server exclude each other",
			why:  "unset: they share a process too, and exclude each other there",
			run: func(e *env) {
				var queue []backend.Contender
				for range 3 {
					queue = append(queue, e.contend(e.open(), "l", backend.ContendOptions{}))
				}
				e.oneByOne(queue)
			},
		},
		{
			name:  "R30/one that waits and is not renewed loses its place, one that is renewed keeps it",
			timed: true,
			run: func(e *env) {
				a := e.contend(e.s, "l", backend.ContendOptions{Lease: e.renewable()})
				e.admitted(a)
				dead := e.contend(e.open(), "l", backend.ContendOptions{Lease: e.renewable()})
				alive := e.contend(e.open(), "l", backend.ContendOptions{Lease: e.renewable()})
				tick := time.NewTicker(a.Lease() / 5)
				defer tick.Stop()
				for end := time.Now().Add(dead.Lease() + e.caps.TTLSlack); time.Now().Before(end); <-tick.C {
					e.noErr(a.Renew(e.ctx), "Renew of the holder")
					e.noErr(alive.Renew(e.ctx), "Renew of one that waits")
				}
				e.wantErr(dead.Renew(e.ctx), "Renew of one that was forgotten", backend.ErrLockLost)
				e.wantErr(dead.Wait(e.ctx), "Wait of one that was forgotten", backend.ErrLockLost)
				e.fenced(e.s, a, "still held")
				e.release(a)
				e.admitted(alive)
			},
		},
		{
			name:  "R30,R39/the locks of a store that is closed are freed",
			timed: true,
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				c, err := s.Contend(e.ctx, "l", backend.ContendOptions{Lease: e.renewable()})
				e.noErr(err, "Contend")
				e.admitted(c)
				w, err := s.Contend(e.ctx, "l", backend.ContendOptions{Lease: e.renewable()})
				e.noErr(err, "Contend")
				waiting := make(chan error, 1)
				go func() { waiting <- w.Wait(e.ctx) }()
				b := e.contend(e.s, "l", backend.ContendOptions{})
				e.noErr(s.Close(), "Close")
				e.soon("Wait", func() { e.wantErr(<-waiting, "Wait that Close interrupts", backend.ErrClosed) })
				e.wantErr(c.Renew(e.ctx), "Renew after Close", backend.ErrClosed)
				ctx, cancel := e.patient(c.Lease() + e.caps.TTLSlack + lag)
				defer cancel()
				e.noErr(b.Wait(ctx), "Wait for a lock of a closed store")
			},
		},
	}
}
