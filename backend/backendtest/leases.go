package backendtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
)

// register puts a key under a lease that is released, if it still has to be,
// when the case ends.
func (e *env) register(s backend.Store, key, value string, o backend.RegisterOptions) backend.Lease {
	e.Helper()
	l, err := s.Register(e.ctx, key, []byte(value), o)
	e.noErr(err, "Register(%q, %+v)", key, o)
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.patience)
		defer cancel()
		if err := l.Release(ctx); err != nil && !errors.Is(err, backend.ErrClosed) {
			e.Errorf("Release of %q: %v", key, err)
		}
	})
	return l
}

// lost demands that nothing but Release works on a lease that is over.
func (e *env) lost(l backend.Lease) {
	e.Helper()
	e.wantErr(l.Renew(e.ctx), "Renew", backend.ErrLeaseLost)
	_, err := l.Set(e.ctx, []byte("too late"))
	e.wantErr(err, "Set", backend.ErrLeaseLost)
	e.wantErr(l.Renew(e.ctx), "Renew again", backend.ErrLeaseLost)
	e.noErr(l.Release(e.ctx), "Release of a lost lease")
}

func leaseCases() []testCase {
	long := backend.RegisterOptions{TTL: time.Minute}
	return []testCase{
		{
			name: "R29/a registered key is a key like any other",
			run: func(e *env) {
				st := e.watch(e.open(), "", backend.WatchOptions{})
				l := e.register(e.s, "d/k", "v", long)
				ent := e.holds(e.open(), "d/k", "v")
				if got := l.Entry(); got.Key != "d/k" || got.Revision != ent.Revision || got.Value != nil {
					e.Errorf("Entry of the lease is %+v, Get returns %+v", got, ent)
				}
				if !ent.Expires.IsZero() {
					e.Errorf("expires %v, though a lease keeps it alive", ent.Expires)
				}
				if l.TTL() < time.Minute {
					e.Errorf("asked for a minute, got %v", l.TTL())
				}
				e.lists(e.s, "", backend.ListOptions{}, "d/k") // and no bookkeeping
				if ev := st.want(backend.Created, "d/k", "v"); ev.Revision != ent.Revision {
					e.Errorf("the event has revision %d, want %d", ev.Revision, ent.Revision)
				}
				e.put(e.s, "d/k/child", "a leased key may have children")
				st.want(backend.Created, "d/k/child", "a leased key may have children")
				e.noErr(l.Release(e.ctx), "Release")
				st.want(backend.Deleted, "d/k", "")
				st.quiet()
				e.lists(e.s, "", backend.ListOptions{}, "d/k/child")
			},
		},
		{
			name: "R29/Register replaces a key, and with Absent does not",
			run: func(e *env) {
				least := e.register(e.s, "least", "v", backend.RegisterOptions{TTL: e.ttl()})
				if least.TTL() < max(e.ttl(), e.caps.MinLease) {
					e.Errorf("asked for %v, MinLease is %v, got %v", e.ttl(), e.caps.MinLease, least.TTL())
				}
				e.noErr(least.Release(e.ctx), "Release")
				rev := e.put(e.s, "k", "old").Revision
				_, err := e.s.Register(e.ctx, "k", []byte("v"), backend.RegisterOptions{TTL: time.Minute, Absent: true})
				e.wantErr(err, "Register of a key that is there", backend.ErrExists)
				e.holds(e.s, "k", "old")
				l := e.register(e.s, "k", "v", long)
				if got := e.holds(e.s, "k", "v").Revision; got <= rev || got != l.Entry().Revision {
					e.Errorf("revision %d after %d, the lease says %d", got, rev, l.Entry().Revision)
				}
				_, err = e.s.Register(e.ctx, "k", []byte("v"), backend.RegisterOptions{TTL: time.Minute, Absent: true})
				e.wantErr(err, "Register of a registered key", backend.ErrExists)
				e.noErr(l.Release(e.ctx), "Release")
				e.absent(e.s, "k")
				e.register(e.s, "k", "again", backend.RegisterOptions{TTL: time.Minute, Absent: true})
				e.holds(e.s, "k", "again")
			},
		},
		{
			name: "R29/renewal changes no revision and makes no event",
			run: func(e *env) {
				l := e.register(e.s, "k", "v", long)
				ent := e.get(e.s, "k")
				st := e.watch(e.open(), "", backend.WatchOptions{}, ent)
				for range 5 {
					e.noErr(l.Renew(e.ctx), "Renew")
				}
				if got := e.holds(e.s, "k", "v").Revision; got != ent.Revision {
					e.Errorf("Renew moved the revision from %d to %d", ent.Revision, got)
				}
				st.quiet()
			},
		},
		{
			name: "R29/Set writes a new value under the lease",
			run: func(e *env) {
				l := e.register(e.s, "k", "1", long)
				first := e.get(e.s, "k")
				st := e.watch(e.open(), "", backend.WatchOptions{}, first)
				ent, err := l.Set(e.ctx, []byte("2"))
				e.noErr(err, "Set")
				if ent.Key != "k" || ent.Revision <= first.Revision || ent.Value != nil || l.Entry().Revision != ent.Revision {
					e.Errorf("Set returned %+v after revision %d, Entry is %+v", ent, first.Revision, l.Entry())
				}
				if got := e.holds(e.s, "k", "2"); got.Revision != ent.Revision || !got.Expires.IsZero() {
					e.Errorf("Get returns %+v, want revision %d", got, ent.Revision)
				}
				st.want(backend.Updated, "k", "2")
				e.noErr(l.Renew(e.ctx), "Renew after Set")
				_, err = l.Set(e.ctx, []byte("2")) // identical
				e.noErr(err, "Set")
				st.want(backend.Updated, "k", "2")
				e.noErr(l.Release(e.ctx), "Release")
				st.want(backend.Deleted, "k", "")
				st.quiet()
			},
		},
		{
			name: "R29/Release deletes the key, and can be repeated",
			why:  "a second Unlock panics in a predecessor",
			run: func(e *env) {
				l := e.register(e.s, "k", "v", long)
				e.together(4, func(int) {
					if err := l.Release(e.ctx); err != nil {
						e.Errorf("Release: %v", err)
					}
				})
				e.absent(e.s, "k")
				e.lost(l)
				e.put(e.s, "k", "somebody else's")
				e.noErr(l.Release(e.ctx), "Release again")
				e.holds(e.s, "k", "somebody else's")
			},
		},
		{
			name: "R29,R32/Release does its work with a context that has ended",
			why:  "or a deferred Release leaves the key behind at every shutdown",
			run: func(e *env) {
				l := e.register(e.s, "k", "v", long)
				ctx, cancel := context.WithCancel(e.ctx)
				cancel()
				if err := l.Release(ctx); err != nil {
					e.wantErr(err, "Release", context.Canceled)
				}
				e.within(2*time.Second+lag, "the released key goes", func() bool { return e.missing(e.s, "k") })
			},
		},
		{
			name: "R29/a key that somebody else wrote or deleted is the lease's no more",
			run: func(e *env) {
				other := e.open()
				for i, change := range []struct {
					name  string
					f     func(key string)
					stays bool
				}{
					{"put", func(k string) { e.put(other, k, "theirs") }, true},
					{"put of the same value", func(k string) { e.put(other, k, "ours") }, true},
					{"put at the revision", func(k string) {
						e.putWith(other, k, "theirs", backend.PutOptions{If: backend.AtRevision, Revision: e.get(other, k).Revision})
					}, true},
					{"put that keeps the expiry, of which there is none", func(k string) {
						e.putWith(other, k, "theirs", backend.PutOptions{If: backend.AtRevision, Revision: e.get(other, k).Revision, KeepTTL: true})
					}, true},
					{"transaction", func(k string) {
						_, err := other.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: k, Value: []byte("theirs")}}})
						e.noErr(err, "Commit")
					}, true},
					{"transaction that keeps the expiry, of which there is none", func(k string) {
						_, err := other.Commit(e.ctx, backend.Txn{
							Checks: []backend.Check{{If: backend.AtRevision, Key: k, Revision: e.get(other, k).Revision}},
							Writes: []backend.Write{{Key: k, Value: []byte("theirs"), KeepTTL: true}},
						})
						e.noErr(err, "Commit")
					}, true},
					{"put with a TTL", func(k string) { e.putWith(other, k, "theirs", backend.PutOptions{TTL: time.Hour}) }, true},
					{"delete", func(k string) { e.del(other, k) }, false},
					{"transaction that deletes", func(k string) {
						_, err := other.Commit(e.ctx, backend.Txn{Writes: []backend.Write{{Key: k, Delete: true}}})
						e.noErr(err, "Commit")
					}, false},
					{"delete by prefix", func(k string) {
						_, err := other.DeletePrefix(e.ctx, k[:2])
						e.noErr(err, "DeletePrefix")
					}, false},
					{"delete and recreate", func(k string) { e.del(other, k); e.put(other, k, "theirs") }, true},
					{"another registration", func(k string) { e.register(other, k, "theirs", long) }, true},
				} {
					k := fmt.Sprintf("%02d/k", i)
					l := e.register(e.s, k, "ours", long)
					change.f(k)
					e.Logf("after a %s by another client", change.name)
					e.lost(l)
					if e.missing(e.s, k) == change.stays {
						e.Errorf("after a %s, the lost lease removed or made the key", change.name)
					}
				}
			},
		},
		{
			name:  "R29/a key that is not renewed goes in time, with a Deleted",
			timed: true,
			run: func(e *env) {
				var l backend.Lease
				st := e.watch(e.open(), "", backend.WatchOptions{})
				sp := e.timed(func() error {
					l = e.register(e.s, "k", "v", backend.RegisterOptions{TTL: e.renewable()})
					return nil
				})
				st.want(backend.Created, "k", "v")
				e.lives("k", sp, l.TTL(), func() bool { return e.missing(e.s, "k") })
				st.want(backend.Deleted, "k", "")
				e.lost(l)
				e.absent(e.s, "k")
				st.quiet()
			},
		},
		{
			name:  "R29/a key that is renewed stays, and one that was taken over does not go with the lease",
			timed: true,
			run: func(e *env) {
				o := backend.RegisterOptions{TTL: e.renewable()}
				kept, set, taken, cleared := e.register(e.s, "kept", "v", o), e.register(e.s, "set", "v", o), e.register(e.s, "taken", "v", o), e.register(e.s, "cleared", "v", o)
				modified := e.register(e.s, "modified", "v", o)
				e.put(e.open(), "taken", "theirs")
				e.putWith(e.open(), "cleared", "theirs", backend.PutOptions{TTL: time.Hour})
				e.putWith(e.open(), "modified", "theirs", backend.PutOptions{ // as Modify does: there is no expiry to keep
					If: backend.AtRevision, Revision: e.get(e.s, "modified").Revision, KeepTTL: true,
				})
				_, err := set.Set(e.ctx, []byte("new")) // still under the lease
				e.noErr(err, "Set")
				rev := e.get(e.s, "kept").Revision
				ttl := kept.TTL()
				tick := time.NewTicker(ttl / 4)
				defer tick.Stop()
				var renewed span
				for range 8 { // two leases
					<-tick.C
					renewed = e.timed(func() error { return kept.Renew(e.ctx) })
				}
				if got := e.holds(e.s, "kept", "v").Revision; got != rev {
					e.Errorf("renewals moved the revision from %d to %d", rev, got)
				}
				e.within(e.caps.TTLSlack+lag, "the lease that was set and not renewed ends", func() bool { return e.missing(e.s, "set") })
				e.holds(e.s, "taken", "theirs")
				e.holds(e.s, "cleared", "theirs")
				if ent := e.holds(e.s, "modified", "theirs"); !ent.Expires.IsZero() {
					e.Errorf("a registered key that was modified expires at %v", ent.Expires)
				}
				e.lives("kept", renewed, ttl, func() bool { return e.missing(e.s, "kept") })
				e.lost(kept)
				e.lost(taken)
				e.lost(cleared)
				e.lost(modified)
				e.lists(e.s, "", backend.ListOptions{}, "cleared", "modified", "taken")
			},
		},
		{
			name:  "R29,R39/a key of a store that is closed goes",
			timed: true,
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				l, err := s.Register(e.ctx, "k", []byte("v"), backend.RegisterOptions{TTL: e.ttl()})
				e.noErr(err, "Register")
				e.noErr(s.Close(), "Close")
				closed := time.Now()
				e.wantErr(l.Renew(e.ctx), "Renew after Close", backend.ErrClosed)
				e.within(time.Until(closed.Add(l.TTL()+e.caps.TTLSlack+lag)), "the key goes", func() bool { return e.missing(e.s, "k") })
			},
		},
	}
}
