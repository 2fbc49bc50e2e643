package backendtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
)

// fenceCases are about what a holder has in hand: tokens, checks, the lease.
func fenceCases() []testCase {
	return []testCase{
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
				ctx, cancel = e.patient(2*time.Second + lag)
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
			name: "R27,R31/a lost lock is told before any other check that fails",
			why:  "or a former leader that writes what its successor wrote already takes it for a race that it may repeat",
			run: func(e *env) {
				stale := e.put(e.s, "here", "v").Revision
				rev := e.put(e.s, "here", "v").Revision
				lost, held := e.contend(e.s, "l", backend.ContendOptions{}), e.contend(e.s, "m", backend.ContendOptions{})
				e.admitted(lost)
				e.admitted(held)
				e.release(lost)
				for _, bad := range []backend.Check{
					{If: backend.Absent, Key: "here"},
					{If: backend.Present, Key: "missing"},
					{If: backend.AtRevision, Key: "here", Revision: stale},
					{If: backend.AtRevision, Key: "here", Revision: rev + 1},
					{If: backend.AtRevision, Key: "missing", Revision: rev},
				} {
					for at, checks := range [][]backend.Check{
						{lost.Check(), bad, held.Check()},
						{held.Check(), lost.Check(), bad},
						{bad, held.Check(), lost.Check()},
					} {
						what := fmt.Sprintf("Commit under a lost lock, check %d, whose check %+v fails too", at, bad)
						_, err := e.s.Commit(e.ctx, backend.Txn{Checks: checks, Writes: []backend.Write{{Key: bad.Key, Value: []byte("late")}}})
						e.wantErr(err, what, backend.ErrLockLost)
						var ce *backend.CheckError
						if !errors.As(err, &ce) || ce.Index != at || ce.Key != "l" {
							e.Errorf("%s: %v (%+v) does not name it", what, err, ce)
						}
					}
					// One that is held is not blamed, wherever it stands.
					for at, checks := range [][]backend.Check{{bad, held.Check()}, {held.Check(), bad}} {
						what := fmt.Sprintf("Commit under a lock that is held, whose check %d, %+v, fails", at, bad)
						_, err := e.s.Commit(e.ctx, backend.Txn{Checks: checks, Writes: []backend.Write{{Key: bad.Key, Value: []byte("late")}}})
						e.wantErr(err, what, bad.If.Failed())
						var ce *backend.CheckError
						if !errors.As(err, &ce) || ce.Index != at || ce.Key != bad.Key {
							e.Errorf("%s: %v (%+v) does not name it", what, err, ce)
						}
					}
				}
				e.lists(e.s, "", backend.ListOptions{}, "here")
			},
		},
		{
			name:  "R32/a place that is not renewed goes in time, and who held it is told",
			timed: true,
			run: func(e *env) {
				other := e.open()
				var a backend.Contender
				sp := e.timed(func() error {
					a = e.contend(e.s, "l", backend.ContendOptions{Lease: e.renewable(), Value: []byte("a")})
					return nil
				})
				token := e.admitted(a)
				hs := e.holders(other, "l")
				hs.want("a", true)
				b := e.contend(other, "l", backend.ContendOptions{Value: []byte("b")})
				ctx, cancel := e.patient(time.Until(sp.done.Add(a.Lease() + e.caps.TTLSlack + lag)))
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
	}
}
