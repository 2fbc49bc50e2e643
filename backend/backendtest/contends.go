package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/polykv/kv/backend"
)

// contend enters a lock's queue, for longer than the case lasts unless o has a
// lease.
func (e *env) contend(s backend.Store, name string, o backend.ContendOptions) backend.Contender {
	e.Helper()
	if o.Lease == 0 {
		o.Lease = time.Minute
	}
	c, err := s.Contend(e.ctx, name, o)
	e.noErr(err, "Contend(%q, %+v)", name, o)
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.patience)
		defer cancel()
		if err := c.Release(ctx); err != nil && !errors.Is(err, backend.ErrClosed) {
			e.Errorf("Release of %q: %v", name, err)
		}
	})
	return c
}

// admitted waits until c holds, and returns its token.
func (e *env) admitted(c backend.Contender) uint64 {
	e.Helper()
	ctx, cancel := context.WithTimeoutCause(e.ctx, e.patience, errors.New("not admitted"))
	defer cancel()
	e.noErr(c.Wait(ctx), "Wait")
	if c.Token() == 0 {
		e.Fatalf("the token of a holder is 0")
	}
	return c.Token()
}

// waits demands that c is not admitted, as far as a short time can show.
func (e *env) waits(c backend.Contender) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, never)
	defer cancel()
	if err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("Wait of one that has to wait: %v", err)
	}
}

func (e *env) release(c backend.Contender) {
	e.Helper()
	e.noErr(c.Release(e.ctx), "Release")
}

// refused demands that the store refuses a write under c's check.
func (e *env) refused(s backend.Store, c backend.Contender) {
	e.Helper()
	_, err := s.Commit(e.ctx, backend.Txn{
		Checks: []backend.Check{{If: backend.Absent, Key: "never"}, c.Check()},
		Writes: []backend.Write{{Key: "fenced", Value: []byte("too late")}},
	})
	e.wantErr(err, "Commit under the check of a lost lock", backend.ErrLockLost)
	var ce *backend.CheckError
	if !errors.As(err, &ce) || ce.Index != 1 || ce.Key != c.Check().Key {
		e.Errorf("%v (%+v) does not name check 1, of %q", err, ce, c.Check().Key)
	}
}

func (e *env) fenced(s backend.Store, c backend.Contender, value string) {
	e.Helper()
	_, err := s.Commit(e.ctx, backend.Txn{
		Checks: []backend.Check{c.Check()},
		Writes: []backend.Write{{Key: "fenced", Value: []byte(value)}},
	})
	e.noErr(err, "Commit under the check of a held lock")
	e.holds(s, "fenced", value)
}

func (e *env) tries(s backend.Store, name string) error {
	e.Helper()
	c, err := s.Contend(e.ctx, name, backend.ContendOptions{Lease: time.Minute, Try: true})
	if err != nil {
		return err
	}
	e.admitted(c) // at once
	e.release(c)
	return nil
}

func contendCases() []testCase {
	shared, two := backend.ContendOptions{Shared: true}, backend.ContendOptions{Slots: 2}
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
			name: "R31/Release can be repeated, and after it the place is gone",
			why:  "a second Unlock panics in a predecessor on Consul, and hangs on Redis",
			run: func(e *env) {
				c := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(c)
				e.together(4, func(int) {
					if err := c.Release(e.ctx); err != nil {
						e.Errorf("Release: %v", err)
					}
				})
				e.wantErr(c.Renew(e.ctx), "Renew", backend.ErrLockLost)
				e.wantErr(c.Set(e.ctx, nil), "Set", backend.ErrLockLost)
				e.wantErr(c.Wait(e.ctx), "Wait", backend.ErrLockLost)
				next := e.contend(e.open(), "l", backend.ContendOptions{})
				e.admitted(next)
				e.release(c) // somebody else holds now
				e.fenced(e.s, next, "v")
			},
		},
		{
			name: "R32/Release does its work with a context that has ended",
			why:  "or a deferred Unlock leaves the lock behind at every shutdown",
			run: func(e *env) {
				a, b := e.contend(e.s, "l", backend.ContendOptions{}), e.contend(e.open(), "l", backend.ContendOptions{})
				e.admitted(a)
				ctx, cancel := context.WithCancel(e.ctx)
				cancel()
				if err := a.Release(ctx); err != nil {
					e.wantErr(err, "Release", context.Canceled)
				}
				ctx, cancel = context.WithTimeoutCause(e.ctx, 2*time.Second+lag, errors.New("the lock was not released"))
				defer cancel()
				e.noErr(b.Wait(ctx), "Wait")
			},
		},
		{
			name: "R31/tokens grow for a name, also after its queue was empty",
			why:  "Consul's LockIndex starts over when the key goes, so it is no fence",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				var last uint64
				for i := range 12 {
					c := e.contend(stores[i%2], "l", backend.ContendOptions{Try: i%3 == 0, Shared: i%4 == 3})
					token := e.admitted(c)
					if token <= last {
						e.Fatalf("holder %d has token %d after %d", i, token, last)
					}
					if last = token; i%2 == 0 {
						e.put(e.s, fmt.Sprintf("k%d", i), "v")
					} else if _, err := e.s.DeletePrefix(e.ctx, ""); err != nil {
						e.Errorf("DeletePrefix: %v", err)
					}
					e.release(c)
				}
			},
		},
		{
			name:  "R31,R42/DurableFence: tokens grow across a restart",
			why:   "unset: they may start over, which is what unset says",
			needs: reopen,
			run: func(e *env) {
				var last uint64
				for range 3 {
					// After a restart a store that keeps no record of grants
					// may have to wait for the end of those it forgot.
					c := e.contend(e.s, "l", backend.ContendOptions{Lease: 10 * time.Second})
					e.within(3*e.patience, "the lock is had after the restart", func() bool {
						e.noErr(c.Renew(e.ctx), "Renew")
						ctx, cancel := context.WithTimeout(e.ctx, never)
						defer cancel()
						return c.Wait(ctx) == nil
					})
					token := c.Token()
					if e.caps.DurableFence && token <= last {
						e.Fatalf("token %d after %d", token, last)
					}
					last = token
					e.release(c)
					e.reopen()
				}
			},
		},
		{
			name: "R31/a check made by one store is good in another's transaction",
			why:  "who holds the lock and who writes may be two clients of one process",
			run: func(e *env) {
				a := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(a)
				other := e.open()
				if check := a.Check(); check.If != backend.LockHeld || check.Key != "l" {
					e.Errorf("the check is %+v, want LockHeld of \"l\"", check)
				}
				e.fenced(other, a, "1")
				b := e.contend(e.s, "m", backend.ContendOptions{})
				e.admitted(b)
				res, err := other.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{a.Check(), b.Check(), {If: backend.Present, Key: "fenced"}},
					Writes: []backend.Write{{Key: "fenced", Value: []byte("2")}},
				})
				e.noErr(err, "Commit under two locks")
				e.release(a)
				e.refused(other, a)
				_, err = other.Commit(e.ctx, backend.Txn{Checks: []backend.Check{a.Check()}})
				e.wantErr(err, "Commit of nothing but a lost lock's check", backend.ErrLockLost)
				if got := e.holds(e.s, "fenced", "2").Revision; got != res.Revision {
					e.Errorf("the refused writes moved the revision from %d to %d", res.Revision, got)
				}
				again := e.contend(e.s, "l", backend.ContendOptions{}) // the same name, held again
				e.admitted(again)
				e.refused(other, a)
				e.fenced(other, again, "3")
			},
		},
		{
			name: "R33/shared contenders hold together, and no exclusive one beside them",
			run: func(e *env) {
				other := e.open()
				r1, r2 := e.contend(e.s, "l", shared), e.contend(other, "l", shared)
				e.admitted(r1)
				e.admitted(r2)
				e.wantErr(e.tries(other, "l"), "Try beside shared holders", backend.ErrLocked)
				w := e.contend(other, "l", backend.ContendOptions{})
				e.waits(w)
				var r3 backend.Contender
				if e.caps.FairLock {
					r3 = e.contend(e.s, "l", shared)
					e.waits(r3) // behind the one that waits, or writers would starve
				}
				e.release(r1)
				e.waits(w)
				e.release(r2)
				e.admitted(w)
				if r3 != nil {
					e.waits(r3)
				}
				e.release(w)
				if r3 != nil {
					e.admitted(r3)
					e.noErr(func() error {
						c, err := other.Contend(e.ctx, "l", backend.ContendOptions{Shared: true, Try: true, Lease: time.Minute})
						if err == nil {
							e.release(c)
						}
						return err
					}(), "Try for a share beside a share")
				}
			},
		},
		{
			name: "R33/as many hold together as there are slots",
			run: func(e *env) {
				stores := []backend.Store{e.s, e.open()}
				var all []backend.Contender
				for i := range 4 {
					all = append(all, e.contend(stores[i%2], "l", two))
				}
				if !e.caps.FairLock {
					return
				}
				e.admitted(all[0])
				e.admitted(all[1])
				e.waits(all[2])
				_, err := e.s.Contend(e.ctx, "l", backend.ContendOptions{Slots: 2, Try: true, Lease: time.Minute})
				e.wantErr(err, "Try without a free slot", backend.ErrLocked)
				e.release(all[0])
				e.admitted(all[2])
				e.waits(all[3])
				e.release(all[2])
				e.admitted(all[3])
				e.release(all[1])
				e.fenced(e.s, all[3], "v")
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
			name: "R2,R30/every canonical key is the name of a lock of its own",
			run: func(e *env) {
				for _, name := range nastyKeys() {
					c := e.contend(e.s, name, backend.ContendOptions{Try: true}) // none of those before is in its way
					if got := c.Check().Key; got != name {
						e.Errorf("the check of %q is of %q", name, got)
					}
				}
				for _, name := range nastyKeys() {
					e.wantErr(e.tries(e.s, name), fmt.Sprintf("Try of %q, which is held", name), backend.ErrLocked)
				}
			},
		},
		{
			name: "R6/what stands behind locks, leases and expiries is not among the keys",
			run: func(e *env) {
				st := e.watch(e.s, "", backend.WatchOptions{Snapshot: true})
				st.want(backend.Synced, "", "")
				held := e.contend(e.s, "l", backend.ContendOptions{Value: []byte("me")})
				e.admitted(held)
				waiting := e.contend(e.open(), "l", backend.ContendOptions{})
				lease := e.register(e.s, "leased", "v", backend.RegisterOptions{TTL: time.Minute})
				st.want(backend.Created, "leased", "v")
				e.putWith(e.s, "expiring", "v", backend.PutOptions{TTL: time.Hour})
				st.want(backend.Created, "expiring", "v")
				e.fenced(e.s, held, "v")
				st.want(backend.Created, "fenced", "v")
				e.lists(e.s, "", backend.ListOptions{}, "expiring", "fenced", "leased")
				e.lists(e.s, "", backend.ListOptions{Children: true}, "expiring", "fenced", "leased")
				e.lists(e.s, "l", backend.ListOptions{})

				n, err := e.s.DeletePrefix(e.ctx, "")
				if err != nil || n != 3 {
					e.Errorf("DeletePrefix = %d, %v, want 3", n, err)
				}
				got := map[string]bool{}
				for range 3 {
					ev := st.next()
					got[ev.Key] = ev.Kind == backend.Deleted
				}
				if !got["leased"] || !got["expiring"] || !got["fenced"] {
					e.Errorf("deleted: %v", got)
				}
				e.lost(lease)
				e.noErr(held.Renew(e.ctx), "Renew of the lock after DeletePrefix")
				e.fenced(e.s, held, "again")
				e.waits(waiting)
				st.want(backend.Created, "fenced", "again")
				st.quiet()
			},
		},
		{
			name: "R33/Holders tells who holds, and every change",
			run: func(e *env) {
				hs := e.holders(e.open(), "l")
				hs.want("", false)
				a := e.contend(e.s, "l", backend.ContendOptions{Value: []byte("a")})
				token := e.admitted(a)
				if got := hs.want("a", true); got != token {
					e.Errorf("Holders tells token %d, the holder has %d", got, token)
				}
				b := e.contend(e.s, "l", backend.ContendOptions{Value: []byte("b")})
				e.noErr(b.Set(e.ctx, []byte("b2")), "Set of one that waits")
				e.noErr(a.Set(e.ctx, []byte("a2")), "Set")
				if got := hs.want("a2", true); got != token {
					e.Errorf("Set moved the token from %d to %d", token, got)
				}
				late := e.holders(e.s, "l")
				late.want("a2", true)
				e.release(a)
				next := e.admitted(b)
				for _, h := range []*holderStream{hs, late} {
					if got := h.want("b2", true); got != next || got <= token {
						e.Errorf("Holders tells token %d, the holder has %d, after %d", got, next, token)
					}
				}
				e.release(b)
				hs.want("", false)
				late.want("", false)
				hs.ends()
				late.ends()
			},
		},
		{
			name:  "R32/a place that is not renewed goes in time, and who held it is told",
			timed: true,
			run: func(e *env) {
				other := e.open()
				var a backend.Contender
				sp := e.timed(func() error {
					a = e.contend(e.s, "l", backend.ContendOptions{Lease: e.ttl(), Value: []byte("a")})
					return nil
				})
				token := e.admitted(a)
				if a.Lease() < max(e.ttl(), e.caps.MinLease) {
					e.Errorf("asked for %v, MinLease is %v, got %v", e.ttl(), e.caps.MinLease, a.Lease())
				}
				hs := e.holders(other, "l")
				hs.want("a", true)
				b := e.contend(other, "l", backend.ContendOptions{Value: []byte("b")})
				ctx, cancel := context.WithDeadline(e.ctx, sp.done.Add(a.Lease()+e.caps.TTLSlack+lag))
				defer cancel()
				e.noErr(b.Wait(ctx), "Wait for a lock whose holder died")
				if early := time.Until(sp.sent.Add(a.Lease())); early > granularity {
					e.Errorf("the lock was taken %v before the lease ended", early)
				}
				if b.Token() <= token {
					e.Errorf("token %d after %d", b.Token(), token)
				}
				e.refused(e.s, a)
				e.fenced(e.s, b, "b")
				hs.want("b", true)
				e.soon("telling the former holder", func() { <-a.Lost() })
				e.wantErr(a.Renew(e.ctx), "Renew", backend.ErrLockLost)
				e.wantErr(a.Set(e.ctx, nil), "Set", backend.ErrLockLost)
				e.wantErr(a.Wait(e.ctx), "Wait", backend.ErrLockLost)
				e.noErr(a.Release(e.ctx), "Release of a lost lock")
				e.noErr(b.Renew(e.ctx), "Renew of the new holder after the old one's Release")
				hs.ends()
			},
		},
		{
			name:  "R30/one that waits and is not renewed loses its place, one that is renewed keeps it",
			timed: true,
			run: func(e *env) {
				a := e.contend(e.s, "l", backend.ContendOptions{Lease: e.ttl()})
				e.admitted(a)
				dead := e.contend(e.open(), "l", backend.ContendOptions{Lease: e.ttl()})
				alive := e.contend(e.open(), "l", backend.ContendOptions{Lease: e.ttl()})
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
				c, err := s.Contend(e.ctx, "l", backend.ContendOptions{Lease: e.ttl()})
				e.noErr(err, "Contend")
				e.admitted(c)
				w, err := s.Contend(e.ctx, "l", backend.ContendOptions{Lease: e.ttl()})
				e.noErr(err, "Contend")
				waiting := make(chan error, 1)
				go func() { waiting <- w.Wait(e.ctx) }()
				b := e.contend(e.s, "l", backend.ContendOptions{})
				e.noErr(s.Close(), "Close")
				e.soon("Wait", func() { e.wantErr(<-waiting, "Wait that Close interrupts", backend.ErrClosed) })
				e.wantErr(c.Renew(e.ctx), "Renew after Close", backend.ErrClosed)
				ctx, cancel := context.WithTimeout(e.ctx, c.Lease()+e.caps.TTLSlack+lag)
				defer cancel()
				e.noErr(b.Wait(ctx), "Wait for a lock of a closed store")
			},
		},
	}
}

// oneByOne demands that of contenders whose order is not known one holds at a
// time, and each gets its turn.
func (e *env) oneByOne(queue []backend.Contender) {
	e.Helper()
	var inside atomic.Int32
	e.together(len(queue), func(i int) {
		ctx, cancel := context.WithTimeout(e.ctx, e.patience)
		defer cancel()
		if err := queue[i].Wait(ctx); err != nil {
			e.Errorf("Wait: %v", err)
			return
		}
		if n := inside.Add(1); n > 1 {
			e.Errorf("%d hold an exclusive lock", n)
		}
		<-time.After(never / 3) // long enough for another one to come in
		inside.Add(-1)
		if err := queue[i].Release(e.ctx); err != nil {
			e.Errorf("Release: %v", err)
		}
	})
}

// holderStream is a running Holders.
type holderStream struct {
	e      *env
	next   chan backend.Holder
	ended  chan error
	cancel context.CancelFunc
}

func (e *env) holders(s backend.Store, name string) *holderStream {
	ctx, cancel := context.WithCancel(e.ctx)
	h := &holderStream{e: e, next: make(chan backend.Holder), ended: make(chan error, 1), cancel: cancel}
	e.Cleanup(cancel)
	go func() {
		for holder, err := range s.Holders(ctx, name) {
			if err != nil {
				h.ended <- err
				return
			}
			select {
			case h.next <- holder:
			case <-ctx.Done():
			}
		}
		h.ended <- nil
	}()
	return h
}

// want demands the next holder and returns its token. While one head follows
// another nobody may hold for a moment, so that is passed over.
func (h *holderStream) want(value string, held bool) uint64 {
	h.e.Helper()
	timeout := time.After(h.e.patience)
	for {
		select {
		case got := <-h.next:
			if held && got.Token == 0 {
				continue
			}
			if string(got.Value) != value || held != (got.Token != 0) {
				h.e.Fatalf("Holders yields %q with token %d, want %q (held: %v)", got.Value, got.Token, value, held)
			}
			return got.Token
		case err := <-h.ended:
			h.e.Fatalf("Holders ended: %v", err)
		case <-timeout:
			h.e.Fatalf("Holders does not tell of %q (held: %v)", value, held)
		}
	}
}

// ends demands that the end of its context ends the sequence without an error.
func (h *holderStream) ends() {
	h.e.Helper()
	h.cancel()
	select {
	case err := <-h.ended:
		h.e.noErr(err, "Holders whose context ended")
	case <-time.After(h.e.patience):
		h.e.Fatal("Holders goes on after its context ended")
	}
}
