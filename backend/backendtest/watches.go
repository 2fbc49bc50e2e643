package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
)

func watchCases() []testCase {
	key := backend.WatchOptions{Key: true}
	return []testCase{
		{
			name: "R17/a watch is established when Watch returns",
			why:  "what is asked for before it is set up may change unseen in a predecessor on etcd",
			run: func(e *env) {
				other := e.open()
				for i := range 30 {
					st := e.watch(e.s, "d", backend.WatchOptions{})
					k := fmt.Sprintf("d/%d/x", i)
					rev := e.put(other, k, "v").Revision
					if ev := st.want(backend.Created, k, "v"); ev.Revision != rev {
						e.Errorf("the event has revision %d, the put %d", ev.Revision, rev)
					}
					e.noErr(st.w.Close(), "Close")
				}
			},
		},
		{
			name: "R17/a watch of a prefix covers what List covers",
			why:  "predecessors see no deep change on ZooKeeper, and foobar under foo",
			run: func(e *env) {
				st := e.watch(e.s, "foo", backend.WatchOptions{})
				for _, k := range []string{"foo", "foobar", "foobar/x", "foo-bar", "foo0", "f", "fo/o", "zfoo/x"} {
					e.put(e.s, k, "v")
				}
				st.quiet()
				for _, k := range []string{"foo/bar", "foo/bar/baz", "foo/a/b/c/d/e", "foo/."} {
					e.put(e.s, k, "v of "+k)
					st.want(backend.Created, k, "v of "+k)
				}
				e.del(e.s, "foo")
				e.del(e.s, "foobar/x")
				st.quiet()
				e.del(e.s, "foo/bar")
				st.want(backend.Deleted, "foo/bar", "")
				e.put(e.s, "foo/a/b/c/d/e", "2")
				st.want(backend.Updated, "foo/a/b/c/d/e", "2")
				st.quiet()
			},
		},
		{
			name: "R17/a watch of everything covers everything below the root, and nothing else",
			run: func(e *env) {
				st := e.watch(e.s, "", backend.WatchOptions{})
				beside := e.openAt(e.root + "2")
				e.put(beside, "a", "v")
				e.del(beside, "a")
				st.quiet()
				for _, k := range []string{"a", "a/b/c", "0"} {
					e.put(e.s, k, "v")
					st.want(backend.Created, k, "v")
				}
				st.quiet()
			},
		},
		{
			name: "R17/a watch of a key covers that key, existing or not",
			run: func(e *env) {
				st := e.watch(e.s, "a/k", key)
				for _, k := range []string{"a", "a/k/x", "a/kk", "a/k-", "a"} {
					e.put(e.s, k, "v")
				}
				st.quiet()
				e.put(e.s, "a/k", "1")
				st.want(backend.Created, "a/k", "1")
				e.put(e.s, "a/k/x", "deeper")
				e.del(e.s, "a/k/x")
				e.put(e.s, "a/k", "2")
				st.want(backend.Updated, "a/k", "2")
				e.del(e.s, "a/k")
				st.want(backend.Deleted, "a/k", "")
				st.quiet()

				e.put(e.s, "b", "old")
				st = e.watch(e.s, "b", key, e.get(e.s, "b"))
				st.quiet()
				e.put(e.s, "b", "new")
				st.want(backend.Updated, "b", "new")
			},
		},
		{
			name: "R17/a watch of a prefix that is not there yet",
			why:  "a predecessor's WatchTree fails on an empty tree",
			run: func(e *env) {
				st := e.watch(e.s, "not/there/yet", backend.WatchOptions{})
				e.put(e.s, "not/there", "v") // a parent as a key
				e.put(e.s, "not/there/yet", "v")
				st.quiet()
				e.put(e.s, "not/there/yet/k", "v")
				st.want(backend.Created, "not/there/yet/k", "v")
				_, err := e.s.DeletePrefix(e.ctx, "not")
				e.noErr(err, "DeletePrefix")
				st.want(backend.Deleted, "not/there/yet/k", "")
				e.put(e.s, "not/there/yet/k", "again") // all parents are made anew
				st.want(backend.Created, "not/there/yet/k", "again")
				st.quiet()
			},
		},
		{
			name: "R2/every canonical key comes back from Watch",
			run: func(e *env) {
				st := e.watch(e.s, "", backend.WatchOptions{})
				keys := nastyKeys()
				e.fill(e.s, keys, func(k string) string { return "value of " + k })
				var got []string
				for range keys {
					ev := st.next()
					if ev.Kind != backend.Created || string(ev.Value) != "value of "+ev.Key {
						e.Errorf("got %v of %q with %q", ev.Kind, ev.Key, ev.Value)
					}
					got = append(got, ev.Key)
				}
				if slices.Sort(got); !slices.Equal(got, keys) {
					e.Fatalf("created: %s", firstDifference(got, keys))
				}
				for _, k := range keys {
					one := e.watch(e.s, k, key, e.get(e.s, k))
					e.del(e.s, k)
					st.want(backend.Deleted, k, "")
					one.want(backend.Deleted, k, "")
					e.noErr(one.w.Close(), "Close")
				}
				st.quiet()
			},
		},
		{
			name: "R17/the context of Watch ends the stream, and what is behind it",
			why:  "cancelled watches leak in every predecessor",
			run: func(e *env) {
				cause := errors.New("the user left")
				for range 20 {
					ctx, cancel := context.WithCancelCause(e.ctx)
					w, err := e.s.Watch(ctx, "d", backend.WatchOptions{})
					e.noErr(err, "Watch")
					ended := make(chan error, 1)
					go func() {
						_, err := w.Next(e.ctx)
						ended <- err
					}()
					cancel(cause)
					select {
					case err = <-ended:
					case <-time.After(e.patience):
						e.Fatal("Next goes on waiting after the stream's context ended")
					}
					e.wantErr(err, "Next", context.Canceled, cause)
					_, err = e.nextOf(w)
					e.wantErr(err, "Next again", context.Canceled, cause)
					// No Close: the end of the context releases everything.
				}
			},
		},
		{
			name: "R17/a context that has ended opens no watch",
			run: func(e *env) {
				cause := errors.New("too late")
				ctx, cancel := context.WithCancelCause(e.ctx)
				cancel(cause)
				w, err := e.s.Watch(ctx, "", backend.WatchOptions{})
				e.wantErr(err, "Watch", context.Canceled, cause)
				if w != nil {
					e.Errorf("Watch returned a stream beside its error")
				}
			},
		},
		{
			name: "R17/a thousand watches come and go",
			why:  "each must be gone with all that it had, on the server too",
			run: func(e *env) {
				e.put(e.s, "d/k", "v")
				for i := range 100 {
					e.together(10, func(j int) {
						w, err := e.s.Watch(e.ctx, fmt.Sprintf("d/%d", j), backend.WatchOptions{Snapshot: i%2 == 0, Key: j%2 == 0})
						if err != nil {
							e.Errorf("Watch: %v", err)
							return
						}
						if err := w.Close(); err != nil {
							e.Errorf("Close: %v", err)
						}
					})
				}
				e.put(e.s, "d/k", "the store works")
			},
		},
		{
			name: "R19/ctx of Next bounds the call, not the watch",
			run: func(e *env) {
				st := e.watch(e.s, "", backend.WatchOptions{})
				cause := errors.New("not now")
				ctx, cancel := context.WithCancelCause(e.ctx)
				cancel(cause)
				_, err := st.w.Next(ctx)
				e.wantErr(err, "Next with a context that has ended", context.Canceled, cause)
				for range 5 {
					ctx, cancel := context.WithTimeoutCause(e.ctx, 5*time.Millisecond, cause)
					_, err = st.w.Next(ctx)
					e.wantErr(err, "Next without an event", context.DeadlineExceeded, cause)
					cancel()
				}
				e.put(e.s, "k", "v")
				st.want(backend.Created, "k", "v")
				// An event that arrives while a call gives up must not be lost.
				for i := range 50 {
					k := fmt.Sprintf("race%d", i)
					ctx, cancel := context.WithCancel(e.ctx)
					go func() {
						defer cancel()
						_, _ = e.s.Put(e.ctx, k, []byte("v"), backend.PutOptions{})
					}()
					ev, err := st.w.Next(ctx)
					if err != nil {
						e.wantErr(err, "Next", context.Canceled)
						st.want(backend.Created, k, "v")
						continue
					}
					<-ctx.Done()
					e.noErr(st.v.Observe(ev), "event")
					if ev.Key != k && ev.Kind != backend.Resynced {
						e.Fatalf("got an event of %q, want %q", ev.Key, k)
					}
				}
			},
		},
		{
			name: "R19/Close ends the stream with ErrClosed and can be repeated",
			run: func(e *env) {
				w, err := e.s.Watch(e.ctx, "", backend.WatchOptions{})
				e.noErr(err, "Watch")
				ended := make(chan error, 1)
				go func() {
					_, err := w.Next(e.ctx)
					ended <- err
				}()
				e.soon("Close", func() {
					e.together(4, func(int) {
						if err := w.Close(); err != nil {
							e.Errorf("Close: %v", err)
						}
					})
				})
				select {
				case err = <-ended:
					e.wantErr(err, "Next that Close interrupts", backend.ErrClosed)
				case <-time.After(e.patience):
					e.Fatal("Next goes on waiting after Close")
				}
				_, err = e.nextOf(w)
				e.wantErr(err, "Next after Close", backend.ErrClosed)
				e.wantErr(w.Sync(e.ctx), "Sync after Close", backend.ErrClosed)
				e.noErr(w.Close(), "Close again")
			},
		},
		{
			name: "R19/Close of a watch with unread events returns",
			run: func(e *env) {
				w, err := e.s.Watch(e.ctx, "", backend.WatchOptions{})
				e.noErr(err, "Watch")
				e.fill(e.s, numbered("k", 1000), func(string) string { return strings.Repeat("x", 1000) })
				e.soon("Close", func() { e.noErr(w.Close(), "Close") })
			},
		},
		{
			name: "R17/Sync is answered after all writes that were complete",
			run: func(e *env) {
				other := e.open()
				st := e.watch(e.s, "d", backend.WatchOptions{})
				var said backend.Revision
				for i := range 30 {
					k := fmt.Sprintf("d/%d", i)
					rev := e.put(other, k, "v").Revision
					if said >= rev {
						e.Errorf("Progress has revision %d, and a write that came after it has %d", said, rev)
					}
					st.sync()
					st.want(backend.Created, k, "v")
					for {
						ev := st.read()
						if ev.Kind == backend.Progress && (!e.caps.Lossless || ev.Revision >= rev) {
							said = ev.Revision
							break // an earlier answer may have come late, with an older revision
						}
					}
				}
				// A write outside the scope moves the point too.
				rev := e.put(other, "outside", "v").Revision
				st.sync()
				for e.caps.Lossless {
					if ev := st.read(); ev.Kind == backend.Progress && ev.Revision >= rev {
						break
					}
				}
			},
		},
		{
			name:  "R25/an idle watch costs the server keep-alives only",
			why:   "go-cloud's etcd variable once made 5,923 requests in three seconds on one idle key",
			needs: requests,
			run: func(e *env) {
				for _, o := range []backend.WatchOptions{{}, {Key: true}, {Snapshot: true}} {
					st := e.watch(e.s, "k", o)
					st.rest() // it is established and quiet
				}
				const span, most = 2 * time.Second, 40 // a slow poll and a keep-alive each, several times over
				var sent int64
				for range 3 { // a connection that a busy machine breaks is made anew
					before := e.h.Requests()
					<-time.After(span) // there is no event to wait for: this is the measurement
					if sent = e.h.Requests() - before; sent <= most {
						return
					}
				}
				e.Errorf("three idle watches sent %d requests in %v, want at most %d", sent, span, most)
			},
		},
	}
}
