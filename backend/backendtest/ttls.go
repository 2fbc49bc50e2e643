package backendtest

import (
	"errors"
	"time"

	"github.com/polykv/kv/backend"
)

// granularity is by how much a time that is read from one clock may differ
// from one that is read from the next, on one machine: a server that counts in
// milliseconds cuts off what is below.
const granularity = 5 * time.Millisecond

// lag is how late the machine may run this test. It is added to what a store
// promises, and not to what a test expects of a store that is early.
const lag = 500 * time.Millisecond

// lag is that, and for how long the machine has stood still since then.
func (e *env) lag(then time.Time) time.Duration { return lag + e.stalls.Since(then) }

// span is when a write with a TTL may have been applied.
type span struct{ sent, done time.Time }

// timed runs write and returns when it happened.
func (e *env) timed(write func() error) span {
	e.Helper()
	var sp span
	sp.sent = time.Now()
	e.noErr(write(), "write with a TTL")
	sp.done = time.Now()
	return sp
}

// lives demands that key is there until ttl after sp, and gone ttl+TTLSlack
// after it.
func (e *env) lives(key string, sp span, ttl time.Duration, gone func() bool) {
	e.Helper()
	latest := sp.done.Add(ttl + e.caps.TTLSlack)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		asked := time.Now()
		if gone() {
			if early := time.Until(sp.sent.Add(ttl)); early > granularity {
				e.Fatalf("%q is gone %v before its TTL of %v ends", key, early, ttl)
			}
			return
		}
		if asked.After(latest.Add(e.lag(sp.sent))) {
			e.Fatalf("%q is still there %v after its TTL of %v ended (TTLSlack is %v)", key, asked.Sub(sp.done.Add(ttl)), ttl, e.caps.TTLSlack)
		}
		<-tick.C
	}
}

// missing reports whether Get says that there is no key.
func (e *env) missing(s backend.Store, key string) bool {
	_, err := s.Get(e.ctx, key, backend.GetOptions{})
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		e.Fatalf("Get(%q): %v", key, err)
	}
	return err != nil
}

// ttl is a short one that the store keeps to.
func (e *env) ttl() time.Duration { return max(time.Second, e.caps.MinTTL) }

// renewable is a TTL for cases that renew it themselves, with which a busy
// machine can be in time: it may stand still for a second.
func (e *env) renewable() time.Duration { return max(3*time.Second, e.ttl()) }

// until waits for a point in time: for the cases in which time itself is what
// has to pass, as for something that must still be there then.
func (e *env) until(t time.Time) {
	select {
	case <-time.After(time.Until(t)):
	case <-e.ctx.Done():
		e.Fatal(e.ctx.Err())
	}
}

func ttlCases() []testCase {
	return []testCase{
		{
			name:  "R28/a TTL of one second is kept to",
			why:   "in predecessors any TTL under 20 s fails on Consul, 1 s outlives itself on ZooKeeper, and bbolt ignores it",
			timed: true,
			run: func(e *env) {
				if e.caps.MinTTL > time.Second {
					e.Errorf("MinTTL is %v, want at most 1 s", e.caps.MinTTL)
				}
				other := e.open()
				var sp span
				for there := false; !there; { // or the machine stood still for all of the second
					sp = e.timed(func() error {
						_, err := e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: e.ttl()})
						return err
					})
					ent, err := other.Get(e.ctx, "k", backend.GetOptions{})
					if there = err == nil; there && string(ent.Value) != "v" {
						e.Fatalf("Get = %q", ent.Value)
					} else if !there {
						e.wantErr(err, "Get", backend.ErrNotFound)
					}
					if early := time.Until(sp.sent.Add(e.ttl())); !there && early > granularity {
						e.Fatalf("the key is gone %v before its TTL ends", early)
					}
				}
				e.lives("k", sp, e.ttl(), func() bool { return e.missing(other, "k") })
			},
		},
		{
			name:  "R28/a TTL that is no whole number of seconds is rounded up, if at all",
			timed: true,
			run: func(e *env) {
				ttl := e.ttl() + 300*time.Millisecond
				sp := e.timed(func() error {
					_, err := e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: ttl})
					return err
				})
				// What the store makes of it is what Expires says.
				ttl = max(ttl, e.get(e.s, "k").Expires.Sub(sp.done))
				e.lives("k", sp, ttl, func() bool { return e.missing(e.s, "k") })
			},
		},
		{
			name: "R28/Expires is when the TTL ends, in every read",
			run: func(e *env) {
				for _, ttl := range []time.Duration{e.ttl(), 90 * time.Second, time.Hour + 1234567*time.Nanosecond, 30 * 24 * time.Hour, backend.MaxTTL} {
					var ent backend.Entry
					sp := e.timed(func() (err error) {
						ent, err = e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: ttl})
						return err
					})
					var many []backend.Entry
					many, err := e.s.GetMany(e.ctx, []string{"k"}, backend.GetOptions{})
					e.noErr(err, "GetMany")
					for how, got := range map[string]backend.Entry{
						"Put": ent, "Get": e.get(e.s, "k"), "GetMany": many[0],
						"List":         e.list(e.s, "", backend.ListOptions{})[0],
						"List of keys": e.list(e.s, "", backend.ListOptions{KeysOnly: true})[0],
					} {
						if early := sp.sent.Add(ttl).Sub(got.Expires); early > granularity {
							e.Errorf("%s: a TTL of %v expires %v early", how, ttl, early)
						}
						if late := got.Expires.Sub(sp.done.Add(ttl)); late > e.caps.TTLSlack+granularity {
							e.Errorf("%s: a TTL of %v expires %v late, TTLSlack is %v", how, ttl, late, e.caps.TTLSlack)
						}
						if d := got.Expires.Sub(ent.Expires).Abs(); d > granularity {
							e.Errorf("%s: expires %v apart from what Put said", how, d)
						}
					}
				}
			},
		},
		{
			name:  "R28/a put without a TTL clears it, one with a TTL replaces it, KeepTTL keeps it",
			why:   "on Consul a plain put on a predecessor's key kept the session, so the new value died later",
			timed: true,
			run: func(e *env) {
				ttl, long := 5*e.ttl(), time.Hour // all that follows has to be done in time, on a busy machine too
				write := func(k string, o backend.PutOptions) backend.Entry { return e.putWith(e.s, k, "v", o) }
				short := backend.PutOptions{TTL: ttl}
				write("cleared", short)
				write("cleared by a transaction", short)
				write("deleted and recreated", short)
				write("prolonged", short)
				write("shortened", backend.PutOptions{TTL: long})
				kept := write("kept", short)
				keptTxn := write("kept by a transaction", short)
				never := write("never expired", backend.PutOptions{})
				keptLong := write("kept long", backend.PutOptions{TTL: long})

				if ent := write("cleared", backend.PutOptions{}); !ent.Expires.IsZero() {
					e.Errorf("Put without TTL returned an expiry, %v", ent.Expires)
				}
				e.del(e.s, "deleted and recreated")
				write("deleted and recreated", backend.PutOptions{If: backend.Absent})
				write("prolonged", backend.PutOptions{TTL: long})
				shortened := e.timed(func() error {
					_, err := e.s.Put(e.ctx, "shortened", nil, short)
					return err
				})
				for _, was := range []backend.Entry{kept, never, keptLong} {
					now := write(was.Key, backend.PutOptions{If: backend.AtRevision, Revision: was.Revision, KeepTTL: true})
					if now.Revision <= was.Revision || now.Expires.Sub(was.Expires).Abs() > granularity {
						e.Errorf("KeepTTL of %q: revision %d after %d, expiry %v after %v", was.Key, now.Revision, was.Revision, now.Expires, was.Expires)
					}
				}
				res, err := e.s.Commit(e.ctx, backend.Txn{
					Checks: []backend.Check{{If: backend.AtRevision, Key: keptTxn.Key, Revision: keptTxn.Revision}},
					Writes: []backend.Write{{Key: keptTxn.Key, Value: []byte("v"), KeepTTL: true}, {Key: "cleared by a transaction"}},
				})
				e.noErr(err, "Commit")
				if d := res.Entries[0].Expires.Sub(keptTxn.Expires).Abs(); d > granularity {
					e.Errorf("KeepTTL in a transaction moved the expiry by %v", d)
				}
				for k, want := range map[string]bool{
					"cleared": false, "cleared by a transaction": false, "deleted and recreated": false, "never expired": false,
					"prolonged": true, "shortened": true, "kept": true, "kept by a transaction": true, "kept long": true,
				} {
					if got := !e.get(e.s, k).Expires.IsZero(); got != want {
						e.Errorf("%q has an expiry: %v, want %v", k, got, want)
					}
				}
				e.lives("kept", span{kept.Expires.Add(-ttl), kept.Expires.Add(-ttl)}, ttl, func() bool { return e.missing(e.s, "kept") })
				e.until(shortened.done.Add(ttl + e.caps.TTLSlack))
				e.lists(e.s, "", backend.ListOptions{}, "cleared", "cleared by a transaction", "deleted and recreated", "kept long", "never expired", "prolonged")
			},
		},
		{
			name:  "R28/a TTL in a transaction is kept to",
			timed: true,
			run: func(e *env) {
				const n = 20
				var t backend.Txn
				for _, k := range numbered("d/k", n) {
					t.Writes = append(t.Writes, backend.Write{Key: k, Value: []byte("v"), TTL: e.ttl()})
				}
				t.Writes = append(t.Writes, backend.Write{Key: "d/lasting", Value: []byte("v")})
				var res backend.TxnResult
				sp := e.timed(func() (err error) {
					res, err = e.s.Commit(e.ctx, t)
					return err
				})
				for i, ent := range res.Entries {
					if i < n && ent.Expires.Before(sp.sent.Add(e.ttl()-granularity)) || i == n && !ent.Expires.IsZero() {
						e.Errorf("entry %d, %q, expires %v", i, ent.Key, ent.Expires)
					}
				}
				e.lives("d/k…", sp, e.ttl(), func() bool { return len(e.list(e.s, "d", backend.ListOptions{})) <= 1 })
				e.lists(e.s, "d", backend.ListOptions{}, "d/lasting")
			},
		},
		{
			name:  "R28/a key that is put again in time lives on, and its watchers see updates only",
			timed: true,
			run: func(e *env) {
				st, ttl := e.watch(e.open(), "", backend.WatchOptions{}), e.renewable()
				e.putWith(e.s, "k", "v", backend.PutOptions{TTL: ttl})
				st.want(backend.Created, "k", "v")
				tick := time.NewTicker(ttl / 4)
				defer tick.Stop()
				var sp span
				for range 8 { // two TTLs
					<-tick.C
					sp = e.timed(func() error {
						_, err := e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{If: backend.Present, TTL: ttl})
						return err
					})
					st.want(backend.Updated, "k", "v")
				}
				e.lives("k", sp, ttl, func() bool { return e.missing(e.s, "k") })
				st.want(backend.Deleted, "k", "")
				st.quiet()
			},
		},
		{
			name: "R28/a TTL that ends far away is kept to, or refused, but not dropped",
			run: func(e *env) {
				const century = 100 * 365 * 24 * time.Hour
				sp := e.timed(func() error {
					_, err := e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: century})
					if errors.Is(err, backend.ErrInvalid) {
						e.Logf("a TTL of a century is refused: %v", err) // said, not dropped
						_, err = e.s.Put(e.ctx, "k", []byte("v"), backend.PutOptions{TTL: 30 * 24 * time.Hour})
					}
					return err
				})
				if ent := e.get(e.s, "k"); ent.Expires.Before(sp.sent.Add(30*24*time.Hour - granularity)) {
					e.Errorf("expires %v", ent.Expires)
				}
			},
		},
	}
}
