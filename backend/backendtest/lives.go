package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

func lifeCases() []testCase {
	return []testCase{
		{
			name: "R42/Capabilities make sense, and do not change",
			run: func(e *env) {
				c := e.caps
				if c.Name == "" || c.MaxKeyBytes < 128 || c.MaxValueBytes < 1<<10 || c.MaxTxnBytes < c.MaxValueBytes/2 {
					e.Errorf("name %q, limits %d, %d, %d", c.Name, c.MaxKeyBytes, c.MaxValueBytes, c.MaxTxnBytes)
				}
				if c.MinTTL <= 0 || c.MinTTL > time.Second {
					e.Errorf("MinTTL is %v; every store takes a TTL from one second up (R28)", c.MinTTL)
				}
				if c.TTLSlack <= 0 || c.TTLSlack > 5*time.Second {
					e.Errorf("TTLSlack is %v, want about 2 s (R28)", c.TTLSlack)
				}
				if c.MinLease <= 0 || c.MinLease > time.Minute {
					e.Errorf("MinLease is %v", c.MinLease)
				}
				e.put(e.s, "k", "v")
				e.noErr(e.contend(e.s, "l", backend.ContendOptions{}).Wait(e.ctx), "Wait")
				other := e.open()
				e.noErr(other.Ping(e.ctx), "Ping")
				for _, s := range []backend.Store{e.s, other} {
					if got := s.Capabilities(); got != c {
						e.Errorf("Capabilities were %+v and are %+v", c, got)
					}
				}
			},
		},
		{
			name: "R39/Close ends everything, and later calls are ErrClosed",
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				calls := e.calls(s, "d")
				list := s.List(e.ctx, "", backend.ListOptions{})
				e.soon("Close", func() { e.noErr(s.Close(), "Close") })
				for _, c := range calls {
					e.wantErr(c.do(e.ctx), c.name+" after Close", backend.ErrClosed)
				}
				for _, err := range list {
					e.wantErr(err, "a List that was not begun before Close", backend.ErrClosed)
				}
				n := 0
				for _, err := range s.Holders(e.ctx, "d/lock") {
					e.wantErr(err, "Holders after Close", backend.ErrClosed)
					n++
				}
				if n != 1 {
					e.Errorf("Holders after Close yields %d errors", n)
				}
				e.noErr(s.Close(), "Close again")
				if s.Capabilities().Name != e.caps.Name {
					e.Errorf("Capabilities are gone after Close")
				}
			},
		},
		{
			name:  "R39/Close interrupts an observer of a lock of a silent server",
			why:   "three drivers waited there on the caller's context alone, and heard of Close seconds later",
			needs: pause,
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				e.admitted(e.contend(e.s, "l", backend.ContendOptions{Value: []byte("v")}))
				e.admitted(e.contend(s, "own", backend.ContendOptions{})) // which Close gives back in vain
				seen, ended := make(chan struct{}, 1), make(chan error, 1)
				go func() {
					for _, err := range s.Holders(e.ctx, "l") {
						if err != nil {
							ended <- err
							return
						}
						seen <- struct{}{}
					}
					ended <- nil
				}()
				e.soon("the holder", func() { <-seen })
				resume := e.h.Pause(e.T)
				closed, begin := make(chan error, 1), time.Now()
				go func() { closed <- s.Close() }()
				e.soon("Holders", func() { e.wantErr(<-ended, "Holders that Close interrupts", backend.ErrClosed) })
				if took := time.Since(begin); took > time.Second+e.stalls.Since(begin) {
					e.Errorf("Holders ends %v after Close began", took)
				}
				resume()
				e.soon("Close", func() { e.noErr(<-closed, "Close") })
				e.eventually("the store answers again", func() bool { return e.s.Ping(e.ctx) == nil })
			},
		},
		{
			name: "R39/Close interrupts what waits",
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				rev := e.put(s, "k", "v").Revision
				st := e.watch(s, "", backend.WatchOptions{})
				e.admitted(e.contend(s, "l", backend.ContendOptions{}))
				waiter := e.contend(s, "l", backend.ContendOptions{})
				waiting := map[string]func() error{
					"Watch.Next":     func() error { _, err := st.w.Next(e.ctx); return err },
					"Contender.Wait": func() error { return waiter.Wait(e.ctx) },
					"Get AtLeast": func() error {
						_, err := s.Get(e.ctx, "k", backend.GetOptions{AtLeast: rev + 1<<40})
						return err
					},
					"Holders": func() error {
						for _, err := range s.Holders(e.ctx, "l") {
							if err != nil {
								return err
							}
						}
						return nil
					},
				}
				errs := map[string]chan error{}
				for name, f := range waiting {
					ch := make(chan error, 1)
					errs[name] = ch
					go func() { ch <- f() }()
				}
				<-time.After(never / 3) // that they come to wait; if one does not, the case is weaker but right
				e.soon("Close", func() { e.noErr(s.Close(), "Close") })
				for name, ch := range errs {
					e.soon(name, func() { e.wantErr(<-ch, name, backend.ErrClosed) })
				}
			},
		},
		{
			name: "R39/Close in the body of a List's loop",
			run: func(e *env) {
				e.fill(e.s, numbered("k", 1200), func(string) string { return "v" })
				s := e.h.Open(e.T, e.root)
				e.soon("a List whose store is closed", func() {
					n := 0
					for _, err := range s.List(e.ctx, "", backend.ListOptions{}) {
						if n++; n == 1 {
							e.noErr(errors.Join(err, s.Close()), "Close")
						}
						if err != nil { // what was read already may still come
							e.wantErr(err, "List", backend.ErrClosed)
						}
					}
				})
				e.noErr(s.Close(), "Close")
			},
		},
		{
			name: "R39/Close under load lets every call return",
			run: func(e *env) {
				for range 5 {
					s := e.h.Open(e.T, e.root)
					methods := e.methods(s, "d")
					e.put(s, "d/present", "v")
					var load sync.WaitGroup
					for i := range 8 {
						load.Go(func() {
							for n := i; ; n++ {
								c := methods[n%len(methods)]
								switch err := c.do(e.ctx); {
								case errors.Is(err, backend.ErrClosed):
									return
								case err == nil, errors.Is(err, backend.ErrUncertain), errors.Is(err, backend.ErrNotFound),
									errors.Is(err, backend.ErrExists), errors.Is(err, backend.ErrLocked):
								default:
									e.Errorf("%s beside Close: %v", c.name, err)
									return
								}
							}
						})
					}
					e.eventually("the load is on", func() bool { return !e.missing(e.s, "d/put") || !e.missing(e.s, "d/committed") })
					e.soon("Close under load", func() {
						e.together(3, func(int) {
							if err := s.Close(); err != nil {
								e.Errorf("Close: %v", err)
							}
						})
					})
					e.soon("a call beside Close", load.Wait)
					_, err := e.s.DeletePrefix(e.ctx, "d")
					e.noErr(err, "DeletePrefix")
				}
			},
		},
		{
			name: "R39/one store's Close leaves another alone",
			run: func(e *env) {
				s := e.h.Open(e.T, e.root)
				st := e.watch(e.s, "", backend.WatchOptions{})
				held := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(held)
				w, err := s.Watch(e.ctx, "", backend.WatchOptions{})
				e.noErr(err, "Watch")
				e.put(s, "k", "v")
				e.noErr(s.Close(), "Close")
				_, err = e.nextOf(w)
				e.wantErr(err, "Next of the closed store's watch", backend.ErrClosed)
				st.want(backend.Created, "k", "v")
				e.put(e.s, "k", "2")
				st.want(backend.Updated, "k", "2")
				e.noErr(held.Renew(e.ctx), "Renew")
			},
		},
		{
			name: "R41/everything at once, from many goroutines",
			why:  "run it with -race",
			run: func(e *env) {
				ctx, cancel := context.WithTimeout(e.ctx, time.Second)
				defer cancel()
				e.put(e.s, "d/present", "v")
				w, err := e.s.Watch(e.ctx, "", backend.WatchOptions{Snapshot: true, Prev: true})
				e.noErr(err, "Watch")
				lease := e.register(e.s, "leased", "v", backend.RegisterOptions{TTL: time.Minute})
				held := e.contend(e.s, "l", backend.ContendOptions{})
				e.admitted(held)
				methods := e.methods(e.s, "d")
				var all sync.WaitGroup
				run := func(name string, f func(n int) error) {
					all.Go(func() {
						for n := 0; ctx.Err() == nil; n++ {
							err := f(n)
							switch {
							case err == nil, ctx.Err() != nil, errors.Is(err, backend.ErrNotFound), errors.Is(err, backend.ErrExists), errors.Is(err, backend.ErrLocked):
							default:
								e.Errorf("%s: %v", name, err)
								return
							}
						}
					})
				}
				for i := range 6 {
					run(fmt.Sprintf("worker %d", i), func(n int) error { return methods[(n+i*3)%len(methods)].do(ctx) })
				}
				run("Next", func(int) error { _, err := w.Next(ctx); return err })
				run("Sync", func(int) error { return w.Sync(ctx) })
				run("Health", func(int) error { _ = w.Health(); return nil })
				run("Lease", func(n int) error {
					_, err := lease.Set(ctx, fmt.Append(nil, n))
					return errors.Join(err, lease.Renew(ctx), func() error { _ = lease.Entry(); _ = lease.TTL(); return nil }())
				})
				run("Contender", func(n int) error {
					_, _, _ = held.Token(), held.Renewed(), held.Check()
					return errors.Join(held.Wait(ctx), held.Renew(ctx), held.Set(ctx, fmt.Append(nil, n)))
				})
				run("Capabilities", func(int) error { _ = e.s.Capabilities(); return nil })
				all.Wait()
				e.noErr(w.Close(), "Close")
			},
		},
	}
}
