package backendtest

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/polykv/kv/backend"
)

// scopes are watches whose scopes cut a history of writers w0, w1, … (see
// history.write) in different ways.
func scopes() map[string]backend.WatchOptions {
	return map[string]backend.WatchOptions{
		"":       {},
		"w0":     {Prev: true},
		"w1/b":   {},
		"x":      {Prev: true},
		"w0/a":   {Key: true, Prev: true},
		"w1/a-b": {Key: true},
		"w1/d":   {Key: true, Snapshot: true},
		"w2":     {Snapshot: true, Prev: true},
	}
}

// under runs writers beside f, on two stores, and returns what they wrote.
func (e *env) under(writers, changes int, f func(h *history)) *history {
	h := &history{}
	stores := []backend.Store{e.s, e.open()}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() { h.write(e, stores[i%2], fmt.Sprintf("w%d", i), changes, stop) })
	}
	func() {
		defer all.Wait()
		defer func() {
			if e.Failed() {
				close(stop)
			}
		}()
		f(h)
	}()
	return h
}

func streamCases() []testCase {
	return []testCase{
		{
			name: "R22,R42/Lossless: a stream tells every revision once, in order",
			why:  "unset: the last state of every key, and every recreation",
			run: func(e *env) {
				var streams []*stream
				for _, s := range []backend.Store{e.s, e.open()} {
					for prefix, o := range scopes() {
						streams = append(streams, e.watch(s, prefix, o))
					}
				}
				h := e.under(4, 120, func(*history) {})
				for _, st := range streams {
					st.drained(h.made())
				}
			},
		},
		{
			name: "R19/a snapshot beside writers has no gap to what follows, and no repeat",
			run: func(e *env) {
				var streams []*stream
				h := e.under(4, 150, func(h *history) {
					for range 10 {
						for _, prefix := range []string{"", "w0", "w3/b"} {
							streams = append(streams, e.watch(e.s, prefix, backend.WatchOptions{Snapshot: true, Prev: true}))
						}
						streams = append(streams, e.watch(e.s, "w1/a", backend.WatchOptions{Snapshot: true, Key: true}))
					}
				})
				for _, st := range streams {
					st.drained(h.made())
					for key, ent := range st.v.Now() { // and what it told is what is there
						if got := e.get(e.s, key); !sameEntry(got, ent) {
							e.Errorf("the stream ends with %q at %d, Get returns %q at %d", ent.Value, ent.Revision, got.Value, got.Revision)
						}
					}
				}
			},
		},
		{
			name: "R22/all watches of one scope tell the same",
			run: func(e *env) {
				var streams []*stream
				for range 20 {
					streams = append(streams, e.watch(e.s, "", backend.WatchOptions{}))
				}
				h := e.under(2, 50, func(*history) {})
				for _, st := range streams {
					st.drained(h.made())
				}
			},
		},
		{
			name: "R22/a transaction's events share its revision, and come without another's between",
			run: func(e *env) {
				if !e.caps.Lossless {
					return // elsewhere any of them may be merged
				}
				st := e.watch(e.s, "", backend.WatchOptions{})
				keys := []string{"t/a", "t/b/c", "u", "v/w"}
				h := e.under(2, 60, func(h *history) {
					for i := range 30 {
						var t backend.Txn
						for _, k := range keys {
							t.Writes = append(t.Writes, backend.Write{Key: k, Value: fmt.Append(nil, i)})
						}
						_, err := e.s.Commit(e.ctx, t)
						e.noErr(err, "Commit")
					}
				})
				_ = h
				var rev backend.Revision
				open := 0
				for _, ev := range st.rest() {
					ours := false
					for _, k := range keys {
						ours = ours || ev.Key == k
					}
					switch {
					case ours && open == 0:
						rev, open = ev.Revision, len(keys)-1
					case open > 0 && ev.Revision == rev:
						open--
					case open > 0:
						e.Fatalf("%q at %d stands among the events of the transaction at %d", ev.Key, ev.Revision, rev)
					}
				}
				if open != 0 {
					e.Errorf("the last transaction lacks %d events", open)
				}
			},
		},
		{
			name: "R23/a reader that stalls costs a bounded memory, blocks nobody, and catches up",
			why:  "a thousand unread events of 100 KB were 100 MB in etcd's client",
			run: func(e *env) {
				size := min(64<<10, e.caps.MaxValueBytes)
				const total = 48 << 20 // twelve times the default buffer
				stalled := []*stream{
					e.watch(e.s, "d", backend.WatchOptions{}),
					e.watch(e.s, "d", backend.WatchOptions{Snapshot: true}),
				}
				lively := e.watch(e.s, "d", backend.WatchOptions{})
				before := heap()
				most := before
				written := map[string]backend.Entry{}
				other := e.open()
				value := make([]byte, size)
				for i := range total / size {
					k := fmt.Sprintf("d/k%d", i%8)
					copy(value, fmt.Sprintf("%08d", i))
					rev := e.put(other, k, string(value)).Revision
					written[k] = backend.Entry{Key: k, Revision: rev}
					for { // the lively one keeps up
						ev := lively.next()
						if ev.Key == k && ev.Revision == rev {
							break
						}
					}
					lively.v = &Validator{Prefix: "d", Caps: e.caps} // or it would keep all values
					lively.v.Begin(entriesOf(written)...)
					if i%64 == 0 {
						most = max(most, heap())
					}
				}
				// Each of the stalled may hold its buffer, and an embedded
				// store its data and history besides.
				if grown := int64(most) - int64(before); grown > total/2 {
					e.Errorf("while %d MB were written past a stalled reader, memory grew by %d MB", total>>20, grown>>20)
				}
				for _, st := range stalled {
					e.catchesUp(st, written)
				}
			},
		},
		{
			name: "R23/a reader that is slow sees the last state of everything",
			run: func(e *env) {
				st := e.watch(e.s, "d", backend.WatchOptions{Snapshot: true})
				written := map[string]backend.Entry{}
				for _, k := range numbered("d/k", 200) {
					written[k] = e.put(e.s, k, k)
				}
				for k, ent := range written {
					if len(k)%2 == 0 || ent.Revision%2 == 0 {
						written[k] = e.put(e.s, k, "new")
					}
				}
				e.del(e.s, "d/k00007")
				delete(written, "d/k00007")
				e.catchesUp(st, written)
			},
		},
		{
			name:  "R20/a watch survives cut connections, and no change is lost",
			why:   "a predecessor's watch dies at the first blip, or spins until the store is back",
			needs: breaking,
			run: func(e *env) {
				e.survives(func() {
					for range 4 {
						<-time.After(never) // the writers get on with it
						e.h.Break(e.T)
					}
				})
			},
		},
		{
			name:  "R20/a watch survives a restart of the server, and no change is lost",
			needs: restart,
			run: func(e *env) {
				e.survives(func() {
					for range 2 {
						<-time.After(2 * never)
						e.h.Restart(e.T)
					}
				})
			},
		},
		{
			name:  "R20/a watch that is broken before it has anything to resume from",
			why:   "without a first event the resume point is what Watch was opened at, and that must be kept",
			needs: breaking,
			run: func(e *env) {
				for range 5 {
					st := e.watch(e.s, "d", backend.WatchOptions{})
					e.h.Break(e.T)
					h := &history{}
					for h.made() == nil || h.made()[len(h.made())-1].Uncertain {
						e.noErr(h.put(e.ctx, e.s, "d/k"), "Put")
					}
					e.noErr(h.remove(e.ctx, e.s, "d/k"), "Delete")
					st.drained(h.made())
					e.noErr(st.w.Close(), "Close")
					_, err := e.s.DeletePrefix(e.ctx, "")
					e.noErr(err, "DeletePrefix")
				}
			},
		},
		{
			name:  "R20/Health tells since when a watch is cut off, and when it is back",
			needs: pause | breaking,
			run: func(e *env) {
				st := e.watch(e.s, "d", backend.WatchOptions{})
				resume := e.h.Pause(e.T)
				cut := time.Now()
				e.h.Break(e.T)
				e.eventually("Health tells of the broken connection", func() bool {
					h := st.w.Health()
					return !h.DisconnectedSince.IsZero() || time.Since(h.LastContact) > time.Since(cut)
				})
				resume()
				h := &history{}
				e.eventually("a write succeeds", func() bool {
					e.noErr(h.put(e.ctx, e.s, "d/k"), "Put")
					made := h.made()
					return len(made) > 0 && !made[len(made)-1].Uncertain
				})
				st.drained(h.made())
				// The event may have come before all of the watch was restored.
				e.eventually("Health tells that the watch is back", func() bool {
					h := st.w.Health()
					return h.DisconnectedSince.IsZero() && h.LastContact.After(cut)
				})
			},
		},
	}
}

// survives runs fault beside writers, and judges watches that were open
// throughout.
func (e *env) survives(fault func()) {
	e.Helper()
	var streams []*stream
	for prefix, o := range scopes() {
		streams = append(streams, e.watch(e.s, prefix, o))
	}
	h := &history{}
	stores := []backend.Store{e.open(), e.open()}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() { h.write(e, stores[i%2], fmt.Sprintf("w%d", i), 1<<30, stop) })
	}
	func() {
		defer writers.Wait()
		defer close(stop)
		fault()
		was := len(h.made())
		e.eventually("writes succeed after the fault", func() bool { return len(h.made()) > was+8 })
	}()
	for _, st := range streams {
		st.drained(h.made())
	}
	unsure := 0
	for _, c := range h.made() {
		if c.Uncertain {
			unsure++
		}
	}
	e.Logf("%d changes, %d of them uncertain", len(h.made()), unsure)
}

// catchesUp demands that st comes to tell exactly the state written or, where
// every revision would have to be delivered and the history of them is
// bounded, that it says so.
func (e *env) catchesUp(st *stream, written map[string]backend.Entry) {
	e.Helper()
	if err := st.w.Sync(e.ctx); err != nil {
		e.mayLoseHistory(err)
		return
	}
	now := map[string]backend.Revision{}
	for {
		ev, err := e.nextOf(st.w)
		if err != nil {
			e.mayLoseHistory(err)
			return
		}
		e.noErr(st.v.Observe(ev), "watch of %q", st.v.Prefix)
		for _, k := range st.v.keys { // this test needs no values, and there are many
			k.events = nil
		}
		switch ev.Kind {
		case backend.Progress:
			for k, ent := range written {
				if now[k] != ent.Revision {
					e.Errorf("a stalled reader caught up with %q at %d, it is at %d", k, now[k], ent.Revision)
				}
			}
			if len(now) != len(written) {
				e.Errorf("a stalled reader caught up with %d keys of %d", len(now), len(written))
			}
			return
		case backend.Deleted:
			delete(now, ev.Key)
		case backend.Created, backend.Updated, backend.Existing:
			now[ev.Key] = ev.Revision
		}
	}
}

func (e *env) mayLoseHistory(err error) {
	e.Helper()
	if !e.caps.Lossless || !errors.Is(err, backend.ErrHistoryLost) {
		e.Fatalf("a stalled reader gets %v, want all changes, or ErrHistoryLost on a lossless store", err)
	}
	e.Logf("the history was too short for a stalled reader, which was told")
}

func entriesOf(m map[string]backend.Entry) []backend.Entry {
	var all []backend.Entry
	for _, ent := range m {
		all = append(all, ent)
	}
	return all
}

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
