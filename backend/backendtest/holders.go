package backendtest

import (
	"context"
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
)

// holderCases are about who holds beside whom, and who sees it.
func holderCases() []testCase {
	shared, two := backend.ContendOptions{Shared: true}, backend.ContendOptions{Slots: 2}
	return []testCase{
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
			name: "R33/contenders of different kinds do not hold together",
			run: func(e *env) {
				kinds := map[string]backend.ContendOptions{"exclusive": {}, "shared": shared, "slots": two}
				for head, o := range kinds {
					held := e.contend(e.s, head, o)
					e.admitted(held)
					for kind, o := range kinds {
						if o.Try = true; kind != head {
							_, err := e.s.Contend(e.ctx, head, o)
							e.wantErr(err, "Try "+kind+" behind "+head, backend.ErrLocked)
						}
					}
					e.release(held)
				}
				if !e.caps.FairLock {
					return
				}
				other := e.open()
				s1, r1 := e.contend(e.s, "l", two), e.contend(other, "l", shared)
				s2, w := e.contend(e.s, "l", two), e.contend(other, "l", backend.ContendOptions{})
				s3 := e.contend(e.s, "l", two)
				e.admitted(s1)
				e.waits(r1)
				e.waits(s2)
				e.release(s1)
				e.admitted(r1)
				e.waits(s2)
				e.release(r1)
				e.admitted(s2)
				e.waits(w)
				e.waits(s3)
				e.release(s2)
				e.admitted(w)
				e.waits(s3)
				e.release(w)
				e.admitted(s3)
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
	}
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
