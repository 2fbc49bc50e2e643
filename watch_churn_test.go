package kv_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/memkv"
)

// TestChurnPastStalledReader is R23: keys that come and go while a reader does
// not come cost no memory, wherever in its stream it stopped, and when it comes
// it is told right.
func TestChurnPastStalledReader(t *testing.T) {
	const buffer, base, churn = 16 << 10, 12, 20_000
	for _, lossy := range []bool{true, false} {
		for _, tc := range []struct {
			name string
			opts []kv.WatchOption
			read int // events, before it stops
			sync bool
		}{
			{"in its snapshot", []kv.WatchOption{kv.FromSnapshot()}, 3, false},
			{"at the end of its snapshot", []kv.WatchOption{kv.FromSnapshot()}, base + 1, false},
			{"after its snapshot", []kv.WatchOption{kv.FromSnapshot()}, base + 1, true},
			{"without a snapshot", nil, 0, false},
		} {
			if !lossy && tc.opts == nil {
				continue // it ends with ErrHistoryLost
			}
			t.Run(fmt.Sprintf("lossy %v, %s", lossy, tc.name), func(t *testing.T) {
				ctx := limited(t)
				history := buffer // is lost to who does not come
				if lossy {
					history = 64 << 20 // such a store has none to lose
				}
				s := kv.New(&tapped{Store: memkv.New(memkv.Options{WatchBuffer: history}), lossy: lossy}, kv.WatchBuffer(buffer))
				defer s.Close()
				put := func(key string) {
					t.Helper()
					must[kv.Entry[[]byte]](t)(s.Put(ctx, key, []byte(key)))
				}
				for i := range base {
					put(fmt.Sprintf("k%02d", i))
				}
				w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "", tc.opts...))
				defer w.Close()
				v := &backendtest.Validator{Options: backend.WatchOptions{Snapshot: tc.opts != nil}}
				if tc.opts == nil {
					for e, err := range s.List(ctx, "") {
						if err != nil {
							t.Fatal(err)
						}
						v.Begin(backend.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision, Created: e.Created})
					}
				}
				observe := func() {
					t.Helper()
					ev := must[kv.Event[[]byte]](t)(w.Next(ctx))
					ev.Token = ""
					if err := v.Observe(raw(ev)); err != nil {
						t.Fatal(err)
					}
				}
				for range tc.read {
					observe()
				}
				if tc.sync { // the reader waits, and so has all that there is
					waiting, cancel := context.WithCancel(ctx)
					done := make(chan struct{})
					go func() {
						defer close(done)
						if ev, err := w.Next(waiting); waiting.Err() == nil {
							t.Errorf("%+v, %v", ev, err)
						}
					}()
					if err := w.Sync(ctx); err != nil {
						t.Fatal(err)
					}
					cancel()
					<-done
				}
				most := 0
				for i := range churn {
					key := fmt.Sprintf("fleeting/%d", i)
					put(key)
					if i%7 == 0 {
						put(key)
					}
					if err := s.Delete(ctx, key); err != nil {
						t.Fatal(err)
					}
					if i%2000 == 0 { // what is there changes too
						put("k01")
						put(fmt.Sprintf("new%d", i))
						if err := s.Delete(ctx, "k02"); err != nil {
							t.Fatal(err)
						}
						put("k02")
					}
					if i%100 == 0 {
						most = max(most, kv.Held(w))
					}
				}
				if most > 8*buffer {
					t.Errorf("%d bytes were held for a reader with a buffer of %d", most, buffer)
				}
				if err := s.Delete(ctx, "k03"); err != nil {
					t.Fatal(err)
				}
				put("end")
				want := map[string]kv.Revision{}
				for e, err := range s.List(ctx, "") {
					if err != nil {
						t.Fatal(err)
					}
					want[e.Key] = e.Revision
				}
				events := 0
				for {
					same, now := true, v.Now()
					for key, rev := range want {
						same = same && now[key].Revision == rev
					}
					if same && len(now) == len(want) {
						break
					}
					observe()
					events++
				}
				t.Logf("%d bytes were held at most, %d events were told", most, events)
				// And it goes on from there.
				put("k00")
				for v.Now()["k00"].Revision == want["k00"] {
					observe()
				}
			})
		}
	}
}
