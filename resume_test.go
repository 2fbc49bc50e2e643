package kv

import (
	"context"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

// R21: what the shared upstream tells while a watch is being resumed is told once, in its place: it lies behind the
// token, from where the watch reads on.
func TestResumeBesideWriter(t *testing.T) {
	ctx := t.Context()
	s := New(memkv.New(memkv.Options{}))
	defer s.Close()
	first, err := s.Watch(ctx, "d")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	put := func() {
		if _, err := s.Put(ctx, "d/k", nil); err != nil {
			t.Fatal(err)
		}
	}
	put()
	ev, err := first.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	put()

	// As subscribe does, but slowly.
	sub := &subscription{
		c: s.core, key: hubKey{name: "d"}, opened: ctx, finished: make(chan struct{}), signal: make(chan struct{}, 1),
		marks: map[uint64]chan struct{}{}, taken: map[uint64]bool{}, remove: func() {},
	}
	if sub.h, _, err = s.core.acquire(ctx, sub.key); err != nil {
		t.Fatal(err)
	}
	sub.ctx, sub.cancel = context.WithCancelCause(ctx)
	sub.h.attach(sub)
	context.AfterFunc(sub.ctx, sub.finish)
	defer sub.close(ErrClosed)
	put()
	for queued := false; !queued; time.Sleep(time.Millisecond) {
		sub.h.mu.Lock()
		queued = sub.queue.bytes > 0
		sub.h.mu.Unlock()
	}
	if err := sub.begin(ctx, false, watchOptions{WatchOptions: backend.WatchOptions{Resume: ev.Token}}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		got, err := sub.next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := ev.Revision + Revision(i) + 1; got.Revision != want {
			t.Fatalf("event %d after the token has revision %d, want %d", i, got.Revision, want)
		}
	}
}
