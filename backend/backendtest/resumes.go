package backendtest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/polykv/kv/backend"
)

func resumeCases() []testCase {
	return []testCase{
		{
			name: "R21,R42/Resumable: a token continues in another process, without gap or repeat",
			why:  "unset: there are no tokens, and one is refused as unsupported",
			run: func(e *env) {
				st := e.watch(e.s, "d", backend.WatchOptions{})
				for i := range 20 {
					e.put(e.s, fmt.Sprintf("d/%d", i%7), fmt.Sprint(i))
					if i%5 == 4 {
						e.del(e.s, fmt.Sprintf("d/%d", i%7))
					}
				}
				if !e.caps.Resumable {
					e.refusesTokens(st)
					return
				}
				events := st.rest()
				e.noErr(st.w.Close(), "Close")
				for i, from := range events {
					next := e.h.Open(e.T, e.root) // another process
					w, err := next.Watch(e.ctx, "d", backend.WatchOptions{Resume: from.Token, Prev: true})
					e.noErr(err, "Watch from the token of event %d", i)
					for _, want := range events[i+1:] {
						got, err := e.nextOf(w)
						e.noErr(err, "Next")
						if got.Kind != want.Kind || !sameEntry(got.Entry, want.Entry) {
							e.Fatalf("resumed after event %d: got %v %q at %d, want %v %q at %d", i, got.Kind, got.Key, got.Revision, want.Kind, want.Key, want.Revision)
						}
					}
					e.noErr(w.Close(), "Watch.Close")
					e.noErr(next.Close(), "Close")
				}
			},
		},
		{
			name: "R21/a token in the middle of a transaction's events continues there",
			why:  "all of them share one revision, so the revision alone does not say where",
			run: func(e *env) {
				if !e.caps.Resumable {
					return
				}
				st := e.watch(e.s, "", backend.WatchOptions{})
				e.fill(e.s, numbered("k", 8), func(k string) string { return k })
				e.put(e.s, "z", "after")
				events := st.rest()
				for i, from := range events[:8] {
					w, err := e.s.Watch(e.ctx, "", backend.WatchOptions{Resume: from.Token})
					e.noErr(err, "Watch")
					for _, want := range events[i+1:] {
						got, err := e.nextOf(w)
						e.noErr(err, "Next")
						if !sameEntry(got.Entry, want.Entry) {
							e.Fatalf("resumed after event %d, %q: got %q, want %q", i, from.Key, got.Key, want.Key)
						}
					}
					e.noErr(w.Close(), "Close")
				}
			},
		},
		{
			name: "R21/the tokens of Synced and Progress continue after what they complete",
			run: func(e *env) {
				if !e.caps.Resumable {
					return
				}
				e.put(e.s, "d/a", "1")
				st := e.watch(e.s, "d", backend.WatchOptions{Snapshot: true})
				st.want(backend.Existing, "d/a", "1")
				synced := st.want(backend.Synced, "", "")
				e.put(e.s, "d/b", "2")
				e.put(e.s, "outside", "v")
				st.sync()
				st.want(backend.Created, "d/b", "2")
				progress := st.read()
				for progress.Kind != backend.Progress {
					progress = st.read()
				}
				e.put(e.s, "d/a", "3")
				for from, want := range map[backend.Token][]string{synced.Token: {"2", "3"}, progress.Token: {"3"}} {
					if from == "" {
						e.Errorf("no token")
						continue
					}
					again := e.watch(e.s, "d", backend.WatchOptions{Resume: from})
					again.v = &Validator{Prefix: "d", Caps: e.caps}
					again.v.Begin(backend.Entry{Key: "d/a", Value: []byte("1"), Revision: 1})
					for _, v := range want {
						ev, err := e.nextOf(again.w)
						e.noErr(err, "Next")
						if string(ev.Value) != v {
							e.Fatalf("resumed: got %v of %q with %q, want %q", ev.Kind, ev.Key, ev.Value, v)
						}
					}
					if evs := restOf(e, again.w); len(evs) > 0 {
						e.Errorf("resumed: %d events too many, the first %v of %q", len(evs), evs[0].Kind, evs[0].Key)
					}
				}
			},
		},
		{
			name: "R21/a token in the middle of a snapshot loses nothing of it",
			why:  "to resume there as if the snapshot were complete would be a silent gap; no token at all is right too",
			run: func(e *env) {
				if !e.caps.Resumable {
					return
				}
				e.fill(e.s, []string{"d/a", "d/b", "d/c"}, func(k string) string { return k })
				st := e.watch(e.s, "d", backend.WatchOptions{Snapshot: true})
				first := st.next()
				if first.Token == "" {
					return
				}
				w, err := e.s.Watch(e.ctx, "d", backend.WatchOptions{Resume: first.Token})
				e.noErr(err, "Watch")
				seen := map[string]bool{first.Key: true}
				for _, ev := range restOf(e, w) {
					seen[ev.Key] = true
				}
				for _, k := range []string{"d/a", "d/b", "d/c"} {
					if !seen[k] {
						e.Errorf("%q is lost between a snapshot and the watch that resumed in it", k)
					}
				}
				e.noErr(w.Close(), "Close")
			},
		},
		{
			name: "R21/a token is good for its own watch only",
			run: func(e *env) {
				if !e.caps.Resumable {
					return
				}
				st := e.watch(e.s, "d", backend.WatchOptions{})
				e.put(e.s, "d/k", "v")
				token := st.want(backend.Created, "d/k", "v").Token
				refuse := func(what string, s backend.Store, prefix string, o backend.WatchOptions, want ...error) {
					e.Helper()
					w, err := s.Watch(e.ctx, prefix, o)
					if err == nil {
						// A store may find out only from the server; then the
						// stream must end so before it tells anything.
						_, err = e.nextOf(w)
						e.noErr(w.Close(), "Close")
					}
					for _, sentinel := range want {
						if errors.Is(err, sentinel) {
							return
						}
					}
					e.Fatalf("Watch from %s: got error %v, want one of %v", what, err, want)
				}
				resume := backend.WatchOptions{Resume: token}
				refuse("a token of another prefix", e.s, "d/k", resume, backend.ErrInvalid)
				refuse("a token of a smaller scope", e.s, "", resume, backend.ErrInvalid)
				refuse("a token of a prefix, for the key of that name", e.s, "d", backend.WatchOptions{Resume: token, Key: true}, backend.ErrInvalid)
				refuse("a token of another root", e.openAt(e.root+"2"), "d", resume, backend.ErrInvalid, backend.ErrHistoryLost) // a root may have a history of its own
				for _, garbage := range []backend.Token{
					"x", ":", ":::::", "1:", "0", "1:::::", "\x00", "1:" + backend.Token(strings.Repeat("z", 1000)),
					token[:len(token)/2], token[1:], "2" + token[1:], backend.Token(strings.ToUpper(string(token))) + "?", " " + token,
					backend.Position{Store: "another", Scope: 1, Revision: 1}.Token(),
				} {
					refuse(fmt.Sprintf("the token %q", garbage), e.s, "d", backend.WatchOptions{Resume: garbage}, backend.ErrInvalid)
				}
				// In the form that drivers share, a token of another history
				// of the store can be made.
				if f := strings.SplitN(string(token), ":", 6); len(f) == 6 && f[2] != "" {
					f[2] = "another"
					refuse("a token of another epoch", e.s, "d", backend.WatchOptions{Resume: backend.Token(strings.Join(f, ":"))}, backend.ErrHistoryLost)
				}
			},
		},
		{
			name:  "R21/a token outlives a restart, or says that history is lost",
			needs: reopen,
			run: func(e *env) {
				if !e.caps.Resumable {
					return
				}
				st := e.watch(e.s, "d", backend.WatchOptions{})
				e.put(e.s, "d/k", "1")
				token := st.want(backend.Created, "d/k", "1").Token
				e.put(e.s, "d/k", "2")
				e.noErr(st.w.Close(), "Close")
				e.reopen()
				e.put(e.s, "d/k", "3")
				w, err := e.s.Watch(e.ctx, "d", backend.WatchOptions{Resume: token})
				var values []string
				for err == nil && len(values) < 2 {
					var ev backend.Event
					if ev, err = e.nextOf(w); err == nil {
						values = append(values, string(ev.Value))
					}
				}
				if w != nil {
					e.noErr(w.Close(), "Close")
				}
				if err != nil {
					e.wantErr(err, "resuming after a restart", backend.ErrHistoryLost)
					if len(values) > 0 {
						e.Errorf("told %q before it said that history is lost", values)
					}
				} else if values[0] != "2" || values[1] != "3" {
					e.Errorf("resumed: %q, want 2 and 3", values)
				}
			},
		},
	}
}

// refusesTokens shows that Resumable is rightly unset.
func (e *env) refusesTokens(st *stream) {
	e.Helper()
	st.rest() // the validator refuses tokens
	for _, t := range []backend.Token{"x", backend.Position{Store: e.caps.Name, Revision: 1}.Token()} {
		_, err := e.s.Watch(e.ctx, "d", backend.WatchOptions{Resume: t})
		e.wantErr(err, "Watch from a token", errors.ErrUnsupported)
	}
}

// restOf are the events of w up to the answer to a Sync, not validated.
func restOf(e *env, w backend.Watch) []backend.Event {
	e.Helper()
	e.noErr(w.Sync(e.ctx), "Sync")
	var events []backend.Event
	for {
		ev, err := e.nextOf(w)
		e.noErr(err, "Next")
		if ev.Kind == backend.Progress {
			return events
		}
		events = append(events, ev)
	}
}
