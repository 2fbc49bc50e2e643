package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
)

// promptly is how long a call may take to notice that its context ended (R38).
const promptly = 100 * time.Millisecond

// call is one method that takes a context, with whatever it needs made before.
type call struct {
	name  string
	write bool // may leave its outcome unknown
	do    func(ctx context.Context) error
}

// calls are all methods of s, and of a watch, a lease, a holder and one that
// waits, on keys below dir.
func (e *env) calls(s backend.Store, dir string) []call {
	e.Helper()
	e.put(s, dir+"/present", "v")
	w := e.watch(s, dir, backend.WatchOptions{}, e.get(s, dir+"/present"))
	lease := e.register(s, dir+"/leased", "v", backend.RegisterOptions{TTL: time.Minute})
	w.want(backend.Created, dir+"/leased", "v")
	holder := e.contend(s, dir+"/lock", backend.ContendOptions{})
	e.admitted(holder)
	waiter := e.contend(s, dir+"/lock", backend.ContendOptions{})
	return append(e.methods(s, dir),
		call{"Watch.Next", false, func(ctx context.Context) error { _, err := w.w.Next(ctx); return err }},
		call{"Watch.Sync", false, w.w.Sync},
		call{"Lease.Renew", true, lease.Renew},
		call{"Lease.Set", true, func(ctx context.Context) error { _, err := lease.Set(ctx, []byte("v2")); return err }},
		call{"Contender.Wait", false, waiter.Wait},
		call{"Contender.Renew", true, holder.Renew},
		call{"Contender.Set", true, func(ctx context.Context) error { return holder.Set(ctx, []byte("v2")) }},
	)
}

// methods are the methods of s itself.
func (e *env) methods(s backend.Store, dir string) []call {
	k := dir + "/present"
	return []call{
		{"Get", false, func(ctx context.Context) error {
			_, err := s.Get(ctx, k, backend.GetOptions{})
			return err
		}},
		{"Get stale", false, func(ctx context.Context) error {
			_, err := s.Get(ctx, k, backend.GetOptions{Stale: true})
			return err
		}},
		{"GetMany", false, func(ctx context.Context) error {
			_, err := s.GetMany(ctx, []string{k, dir + "/absent"}, backend.GetOptions{})
			return err
		}},
		{"List", false, func(ctx context.Context) error { return listed(ctx, s, dir, backend.ListOptions{}) }},
		{"List of keys", false, func(ctx context.Context) error { return listed(ctx, s, dir, backend.ListOptions{KeysOnly: true}) }},
		{"List of children", false, func(ctx context.Context) error { return listed(ctx, s, dir, backend.ListOptions{Children: true}) }},
		{"Put", true, func(ctx context.Context) error {
			_, err := s.Put(ctx, dir+"/put", []byte("v"), backend.PutOptions{})
			return err
		}},
		{"Put if absent", true, func(ctx context.Context) error {
			_, err := s.Put(ctx, dir+"/created", []byte("v"), backend.PutOptions{If: backend.Absent, TTL: time.Minute})
			return err
		}},
		{"Put if present", true, func(ctx context.Context) error {
			_, err := s.Put(ctx, k, []byte("v"), backend.PutOptions{If: backend.Present})
			return err
		}},
		{"Delete", true, func(ctx context.Context) error { return s.Delete(ctx, dir+"/present", backend.DeleteOptions{}) }},
		{"DeletePrefix", true, func(ctx context.Context) error { _, err := s.DeletePrefix(ctx, dir+"/sub"); return err }},
		{"Commit", true, func(ctx context.Context) error {
			_, err := s.Commit(ctx, backend.Txn{
				Checks: []backend.Check{{If: backend.Present, Key: k}},
				Writes: []backend.Write{{Key: dir + "/committed", Value: []byte("v")}},
			})
			return err
		}},
		{"Watch", false, func(ctx context.Context) error {
			w, err := s.Watch(ctx, dir, backend.WatchOptions{Snapshot: true})
			if err == nil {
				_ = w.Close()
			}
			return err
		}},
		{"Watch of a key", false, func(ctx context.Context) error {
			w, err := s.Watch(ctx, k, backend.WatchOptions{Key: true, Snapshot: true})
			if err == nil {
				_ = w.Close()
			}
			return err
		}},
		{"Register", true, func(ctx context.Context) error {
			l, err := s.Register(ctx, dir+"/registered", []byte("v"), backend.RegisterOptions{TTL: time.Minute})
			if err == nil {
				_ = l.Release(e.ctx)
			}
			return err
		}},
		{"Contend", false, func(ctx context.Context) error {
			c, err := s.Contend(ctx, dir+"/new lock", backend.ContendOptions{Lease: time.Minute})
			if err == nil {
				_ = c.Release(e.ctx)
			}
			return err
		}},
		{"Contend to try", false, func(ctx context.Context) error {
			c, err := s.Contend(ctx, dir+"/new lock", backend.ContendOptions{Lease: time.Minute, Try: true})
			if err == nil {
				_ = c.Release(e.ctx)
			}
			return err
		}},
		{"Ping", false, s.Ping},
	}
}

// listed is the error of a List.
func listed(ctx context.Context, s backend.Store, prefix string, o backend.ListOptions) error {
	for _, err := range s.List(ctx, prefix, o) {
		if err != nil {
			return err
		}
	}
	return nil
}

func contextCases() []testCase {
	return []testCase{
		{
			name: "R38/a call whose context has ended does nothing, and tells both of the context's errors",
			why:  "contexts are ignored in most calls of the predecessors",
			run: func(e *env) {
				cause := errors.New("the caller's reason")
				ctx, cancel := context.WithCancelCause(e.ctx)
				cancel(cause)
				late, cancelLate := context.WithDeadlineCause(e.ctx, time.Now().Add(-time.Second), cause)
				defer cancelLate()
				for _, c := range e.calls(e.s, "d") {
					e.endsPromptly(c.name, func() { e.wantErr(c.do(ctx), c.name, context.Canceled, cause) })
					e.wantErr(c.do(late), c.name, context.DeadlineExceeded, cause)
				}
				if _, err := e.s.Adopt(ctx, ""); err != nil { // where there is nothing to adopt there is nothing to end
					e.wantErr(err, "Adopt", context.Canceled, cause)
				}
				e.endsPromptly("Holders", func() {
					for range e.s.Holders(ctx, "d/lock") { // its context's end is no error, and the end
						break
					}
				})
				e.lists(e.s, "", backend.ListOptions{KeysOnly: true}, "d/leased", "d/present")
			},
		},
		{
			name: "R38/a call that waits returns promptly when its context ends",
			run: func(e *env) {
				rev := e.put(e.s, "k", "v").Revision
				st := e.watch(e.s, "", backend.WatchOptions{})
				e.admitted(e.contend(e.s, "l", backend.ContendOptions{}))
				waiter := e.contend(e.s, "l", backend.ContendOptions{})
				future := backend.GetOptions{AtLeast: rev + 1<<40}
				cause := errors.New("the caller's reason")
				for _, c := range []call{
					{"Watch.Next", false, func(ctx context.Context) error { _, err := st.w.Next(ctx); return err }},
					{"Contender.Wait", false, waiter.Wait},
					{"Get AtLeast", false, func(ctx context.Context) error { _, err := e.s.Get(ctx, "k", future); return err }},
					{"GetMany AtLeast", false, func(ctx context.Context) error {
						_, err := e.s.GetMany(ctx, []string{"k"}, future)
						return err
					}},
					{"List AtLeast", false, func(ctx context.Context) error {
						return listed(ctx, e.s, "", backend.ListOptions{GetOptions: future})
					}},
				} {
					e.cancelled(c, cause)
				}
				e.endsPromptly("Holders", func() {
					ctx, cancel := context.WithCancel(e.ctx)
					defer cancel()
					for _, err := range e.s.Holders(ctx, "l") {
						e.noErr(err, "Holders")
						cancel()
					}
				})
			},
		},
		{
			name:  "R36,R38/a call to a server that is silent returns promptly when its context ends",
			why:   "some clients ignore contexts, so that a hanging server hangs their users",
			needs: pause,
			run: func(e *env) {
				calls := e.calls(e.s, "d")
				resume := e.h.Pause(e.T)
				cause := errors.New("the caller's reason")
				for _, c := range calls {
					e.cancelled(c, cause)
				}
				e.endsPromptly("Adopt", func() {
					ctx, cancel := context.WithTimeoutCause(e.ctx, promptly/4, cause)
					defer cancel()
					if _, err := e.s.Adopt(ctx, ""); err != nil { // or there is nothing to ask for
						e.wantErr(err, "Adopt", context.DeadlineExceeded, cause)
					}
				})
				e.endsPromptly("Holders", func() {
					ctx, cancel := context.WithTimeout(e.ctx, promptly/4)
					defer cancel()
					for _, err := range e.s.Holders(ctx, "d/lock") {
						e.noErr(err, "Holders")
					}
				})
				resume()
				e.eventually("the store answers again", func() bool { return e.s.Ping(e.ctx) == nil })
				e.put(e.s, "d/after", "v")
				e.holds(e.s, "d/after", "v")
			},
		},
		{
			name: "R36/a write that is cancelled at any moment, and is not ErrUncertain, was not applied",
			why:  "a network error on create is reported as \"exists\" by a predecessor",
			run: func(e *env) {
				start := time.Now()
				e.put(e.s, "probe", "v")
				took := max(time.Since(start), 100*time.Microsecond)
				type attempt struct {
					key, value string
					err        error
				}
				var attempts []attempt
				cause := errors.New("the caller's reason")
				for i := range 150 {
					ctx, cancel := context.WithCancelCause(e.ctx)
					timer := time.AfterFunc(rand.N(2*took), func() { cancel(cause) })
					a := attempt{key: fmt.Sprintf("d/%d", i), value: fmt.Sprintf("value %d %s", i, strings.Repeat("x", 1000))}
					buf := []byte(a.value)
					if i%3 == 0 {
						_, a.err = e.s.Commit(ctx, backend.Txn{
							Checks: []backend.Check{{If: backend.Absent, Key: a.key}},
							Writes: []backend.Write{{Key: a.key, Value: buf}},
						})
					} else {
						_, a.err = e.s.Put(ctx, a.key, buf, backend.PutOptions{If: backend.Condition(i % 2)}) // Always, Absent
					}
					clear(buf) // the caller's again, of an abandoned call too (R8)
					timer.Stop()
					cancel(nil)
					if a.err != nil {
						e.wantErr(a.err, "write", context.Canceled, cause)
					}
					attempts = append(attempts, a)
				}
				<-time.After(never) // for what was abandoned and is still on its way
				var applied, refused, unsure int
				for _, a := range attempts {
					there := !e.missing(e.s, a.key)
					if there {
						e.holds(e.s, a.key, a.value)
					}
					switch {
					case a.err == nil:
						applied++
						if !there {
							e.Errorf("%q was acknowledged and is not there", a.key)
						}
					case errors.Is(a.err, backend.ErrUncertain):
						unsure++
					default:
						refused++
						if there {
							e.Errorf("%q is there, though its write failed with %v", a.key, a.err)
						}
					}
				}
				e.Logf("%d applied, %d not, %d uncertain", applied, refused, unsure)
			},
		},
		{
			name:  "R36/a write whose reply is lost is ErrUncertain, and never repeated",
			why:   "Redis's client re-sends a script after a lost reply, unless it is told not to",
			needs: breaking,
			run: func(e *env) {
				stop := make(chan struct{})
				type attempt struct {
					rev backend.Revision
					err error
				}
				done := make(chan []attempt)
				go func() { // each key is created once, so one that is repeated fails with ErrExists
					var all []attempt
					defer func() { done <- all }()
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						ent, err := e.s.Put(e.ctx, fmt.Sprintf("d/%05d", i), []byte("v"), backend.PutOptions{If: backend.Absent})
						all = append(all, attempt{ent.Revision, err})
					}
				}()
				for range 8 {
					<-time.After(never)
					e.h.Break(e.T)
				}
				close(stop)
				for i, a := range <-done {
					key := fmt.Sprintf("d/%05d", i)
					switch {
					case a.err == nil:
						if got := e.get(e.s, key).Revision; got != a.rev {
							e.Errorf("%q was put at %d and is at %d", key, a.rev, got)
						}
					case errors.Is(a.err, backend.ErrUncertain):
					case errors.Is(a.err, backend.ErrUnavailable):
						if !e.missing(e.s, key) {
							e.Errorf("%q is there, though its write failed with %v", key, a.err)
						}
					default:
						e.Errorf("%q, which nobody else writes: %v", key, a.err)
					}
				}
			},
		},
		{
			name: "R35/no error shows a value",
			run: func(e *env) {
				const secret = "hunter2-the-secret"
				rev := e.put(e.s, "k", secret).Revision
				put := func(key string, value string, o backend.PutOptions) error {
					_, err := e.s.Put(e.ctx, key, []byte(value), o)
					return err
				}
				ended, cancel := context.WithCancel(e.ctx)
				cancel()
				_, cancelled := e.s.Put(ended, "k", []byte(secret), backend.PutOptions{})
				_, txn := e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.Absent, Key: "k"}}, Writes: []backend.Write{{Key: "x", Value: []byte(secret)}},
				})
				_, register := e.s.Register(e.ctx, "k", []byte(secret), backend.RegisterOptions{TTL: time.Minute, Absent: true})
				for _, err := range []error{
					put("k", secret, backend.PutOptions{If: backend.Absent}), put("none", secret, backend.PutOptions{If: backend.Present}),
					put("k", secret, backend.PutOptions{If: backend.AtRevision, Revision: rev + 1}), cancelled, txn, register,
				} {
					if err == nil {
						e.Errorf("a call that has to fail succeeds")
					} else if strings.Contains(err.Error(), secret) || strings.Contains(fmt.Sprintf("%+v", err), secret) {
						e.Errorf("the error shows the value: %v", err)
					}
				}
			},
		},
	}
}

// cancelled runs a call that cannot finish, ends its context, and demands that
// it returns promptly and says why.
func (e *env) cancelled(c call, cause error) {
	e.Helper()
	var late time.Duration
	for range tries {
		ctx, cancel := context.WithCancelCause(e.ctx)
		got := make(chan error, 1)
		go func() { got <- c.do(ctx) }()
		select {
		case err := <-got:
			cancel(nil)
			if err == nil && c.name == "Watch.Sync" {
				return // which may leave all waiting to Next
			}
			e.Fatalf("%s does not wait: %v", c.name, err)
		case <-time.After(never):
		}
		at := time.Now()
		cancel(cause)
		e.soon(c.name, func() { e.wantErr(<-got, c.name, context.Canceled, cause) })
		if late = time.Since(at); late <= promptly {
			return
		}
	}
	e.Errorf("%s returns %v after its context ended", c.name, late)
}

// tries is how often what has to be prompt may be late: the machine may be busy
// once, and several times in a row, but what waits for something does so each
// time.
const tries = 8

// endsPromptly demands that f returns in time, at the last attempt at the
// latest.
func (e *env) endsPromptly(what string, f func()) {
	e.Helper()
	var took time.Duration
	for range tries {
		start := time.Now()
		f()
		if took = time.Since(start); took <= promptly {
			return
		}
	}
	e.Errorf("%s takes %v", what, took)
}
