package kv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

// TestSyncGivenUpBehindStalledReader: a Sync that is given up while what it
// waits for lies behind what the reader has not read leaves nothing there,
// however often, and the one that is not given up comes when the reader has.
func TestSyncGivenUpBehindStalledReader(t *testing.T) {
	for name, open := range map[string]func() backend.Store{
		"lossless":               func() backend.Store { return memkv.New(memkv.Options{}) },
		"merging":                func() backend.Store { return &merging{Store: memkv.New(memkv.Options{})} },
		"merging with revisions": func() backend.Store { return &merging{Store: memkv.New(memkv.Options{}), places: true} },
	} {
		for _, behind := range []int{1, 100} { // events in a buffer that takes some
			t.Run(fmt.Sprintf("%s, %d wait", name, behind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := kv.New(open(), kv.WatchBuffer(4<<10))
					defer s.Close()
					w := must[*kv.Watch[[]byte]](t)(s.Watch(t.Context(), "d"))
					defer w.Close()
					for i := range behind {
						must[kv.Entry[[]byte]](t)(s.Put(t.Context(), fmt.Sprintf("d/%03d", i), nil))
					}
					synctest.Wait()
					before := kv.Held(w)
					sync := func(ctx context.Context) <-chan error {
						done := make(chan error, 1)
						go func() { done <- w.Sync(ctx) }()
						synctest.Wait() // the store has answered, and the answer is where the reader will find it
						return done
					}
					giveUp := func() {
						ctx, cancel := context.WithCancel(t.Context())
						done := sync(ctx)
						cancel()
						if err := <-done; !errors.Is(err, context.Canceled) {
							t.Fatalf("Sync behind a reader who does not come: %v", err)
						}
					}
					giveUp()
					kept := sync(t.Context())
					for range 1000 {
						giveUp()
					}
					// The one that is kept, and what is made room of now and then.
					if after := kv.Held(w); after > before+100*200 {
						t.Errorf("%d bytes are held after 1000 Syncs, %d before", after, before)
					}
					if n := kv.Marks(w); n > 1 {
						t.Errorf("%d marks are kept", n)
					}
					ctx, cancel := context.WithCancel(t.Context())
					var err error
					go func() { defer cancel(); err = <-kept }()
					read := 0
					for ; ; read++ {
						if _, err := w.Next(ctx); ctx.Err() != nil {
							break
						} else if err != nil {
							t.Fatal(err)
						}
					}
					if err != nil || read != behind {
						t.Errorf("Sync comes after %d of %d events: %v", read, behind, err)
					}
				})
			})
		}
	}
}
