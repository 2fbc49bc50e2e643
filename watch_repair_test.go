package kv_test

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
)

// R17, R20: a watch that is opened while the one it shares its stream with loses
// history has lost none.
func TestOpenedBesideLostHistory(t *testing.T) {
	b := &tapped{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	ctx := limited(t)
	old := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
	defer old.Close()
	b.loseHistory()
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
	defer w.Close()
	matches(t, "the old one", must1(old.Next(ctx)), kv.ErrHistoryLost)
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/k", nil))
	if ev := must[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Entry.Key != "d/k" {
		t.Errorf("got %+v", ev)
	}
}

// forgetful is a driver's store whose lists are of no one moment, and which
// resumes nothing.
type forgetful struct{ tapped }

func (s *forgetful) Capabilities() backend.Capabilities {
	c := s.tapped.Capabilities()
	c.SnapshotList = false
	return c
}

func (s *forgetful) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	o.At = nil
	return s.tapped.List(ctx, prefix, o)
}

func (s *forgetful) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if o.Resume != "" {
		return nil, backend.ErrHistoryLost
	}
	return s.tapped.Watch(ctx, prefix, o)
}

// R20: what was queued behind a loss of history for a reader who is to list
// again, and is cut short, is older than the list, and does not bring back what
// was deleted in what was cut.
func TestListedBehindAnOverflow(t *testing.T) {
	b := &forgetful{tapped{Store: memkv.New(memkv.Options{})}}
	s := kv.New(b, kv.WatchBuffer(2000))
	defer s.Close()
	ctx := limited(t)
	put := func(key string) { must[kv.Entry[[]byte]](t)(s.Put(ctx, key, nil)) }
	handedOn := func() { must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d")).Close() } // which waits for that
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
	defer w.Close()
	b.loseHistory()
	put("d/lost")
	handedOn()
	put("d/k")
	put("d/k")
	for i := range 20 {
		put(fmt.Sprintf("d/%02d", i))
	}
	if err := s.Delete(ctx, "d/k"); err != nil {
		t.Fatal(err)
	}
	handedOn()
	known := map[string]bool{}
	read := func() {
		t.Helper()
		reading, stop := context.WithCancel(ctx)
		synced := make(chan error, 1)
		go func() { defer stop(); synced <- w.Sync(ctx) }()
		for {
			ev, err := w.Next(reading)
			switch {
			case reading.Err() != nil:
				if err := <-synced; err != nil {
					t.Fatal(err)
				}
				return
			case err != nil:
				t.Fatal(err)
			case ev.Kind == kv.Deleted:
				delete(known, ev.Key)
			case ev.Key != "":
				known[ev.Key] = true
			}
		}
	}
	read()
	if known["d/k"] || len(known) != 21 {
		t.Errorf("%d keys, the deleted one among them: %v", len(known), known["d/k"])
	}
	put("d/k")
	if read(); !known["d/k"] {
		t.Error("the deleted key comes again, and is not told")
	}
}

// forbidding is a driver's store that loses its rights to watch.
type forbidding struct {
	tapped
	forbidden atomic.Bool
}

func (s *forbidding) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if s.forbidden.Load() {
		return nil, backend.ErrPermission
	}
	return s.tapped.Watch(ctx, prefix, o)
}

// R20: a watch FromSnapshot that cannot be repaired tells why.
func TestRepairIsForbidden(t *testing.T) {
	b := &forbidding{tapped: tapped{Store: memkv.New(memkv.Options{})}}
	s := kv.New(b)
	defer s.Close()
	ctx := limited(t)
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
	defer w.Close()
	b.forbidden.Store(true)
	b.loseHistory()
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/k", nil))
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			matches(t, "the watch", err, kv.ErrPermission)
			return
		}
		if ev.Entry.Key != "" {
			t.Fatalf("got %+v", ev)
		}
	}
}
