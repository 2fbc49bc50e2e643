package kv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/internal/pace"
)

// brokenOff is a driver's store whose lists can end early, with err.
type brokenOff struct {
	backend.Store
	err   error
	lists atomic.Int64 // how many still end early, one after the other
	after int          // after so many entries
}

func (s *brokenOff) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	left := -1
	if s.lists.Add(-1) >= 0 {
		left = s.after
	}
	return func(yield func(backend.Entry, error) bool) {
		for e, err := range s.Store.List(ctx, prefix, o) {
			if left == 0 {
				e, err = backend.Entry{}, s.err
			}
			left--
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// R20, R23: a watch FromSnapshot whose list is overtaken by changes goes on
// with what is there, and does not end.
func TestSnapshotThatIsOvertaken(t *testing.T) {
	b := &brokenOff{Store: memkv.New(memkv.Options{}), err: backend.ErrHistoryLost, after: 10}
	s := kv.New(b)
	defer s.Close()
	ctx := limited(t)
	const n = 100
	for i := range n {
		must[kv.Entry[[]byte]](t)(s.Put(ctx, fmt.Sprintf("d/%03d", i), []byte("old")))
	}
	b.lists.Store(2)
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
	defer w.Close()
	if err := s.Delete(ctx, "d/050"); err != nil {
		t.Fatal(err)
	}
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/000", []byte("new")))
	got := map[string]string{}
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d entries: %v", len(got), err)
		}
		switch ev.Kind {
		case kv.Deleted:
			delete(got, ev.Entry.Key)
		case kv.Existing, kv.Created, kv.Updated:
			got[ev.Entry.Key] = string(ev.Value)
		}
		if ev.Entry.Key == "d/000" && ev.Kind != kv.Existing {
			break
		}
	}
	if _, ok := got["d/050"]; ok || len(got) != n-1 || got["d/000"] != "new" {
		t.Errorf("%d keys, the first is %q, the deleted one is there: %v", len(got), got["d/000"], ok)
	}
}

// R38: between two attempts to reach the store Next heeds the context that the
// watch was opened with, and Close does not wait for the next attempt.
func TestNextBetweenAttempts(t *testing.T) {
	for name, why := range map[string]error{"its context ends": context.Canceled, "it is closed": kv.ErrClosed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &brokenOff{Store: memkv.New(memkv.Options{}), err: backend.ErrUnavailable, after: 1}
				s := kv.New(b)
				defer s.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for _, key := range []string{"d/a", "d/b", "d/c"} {
					must[kv.Entry[[]byte]](t)(s.Put(ctx, key, nil))
				}
				b.lists.Store(1)
				w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
				must[kv.Event[[]byte]](t)(w.Next(ctx))
				b.after = 0
				b.lists.Store(1 << 30)
				var end time.Time
				go func() {
					time.Sleep(time.Minute) // virtual time, until the attempts are seconds apart
					end = time.Now()
					if why == kv.ErrClosed {
						w.Close()
					} else {
						cancel()
					}
				}()
				_, err := w.Next(context.Background()) // which does not end: the watch does
				if late := time.Since(end); late > 100*time.Millisecond || !errors.Is(err, why) {
					t.Errorf("%v late: %v", late, err)
				}
			})
		})
	}
}

// asked is a driver's store whose resumed watches refuse a Sync now and then.
type asked struct {
	backend.Store
	refused atomic.Int64
	more    chan struct{} // closed when the shared stream is further
}

func (s *asked) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	w, err := s.Store.Watch(ctx, prefix, o)
	if err != nil || o.Resume == "" {
		return w, err
	}
	return &askedWatch{Watch: w, s: s}, nil
}

type askedWatch struct {
	backend.Watch
	s     *asked
	syncs int
}

// Sync accepts the first request, so that the stream comes to be, and refuses
// the second.
func (w *askedWatch) Sync(ctx context.Context) error {
	if w.syncs++; w.syncs == 2 {
		w.s.refused.Add(1)
		return backend.ErrUnavailable
	}
	return w.Watch.Sync(ctx)
}

// Next holds the first answer back until the shared stream is further.
func (w *askedWatch) Next(ctx context.Context) (backend.Event, error) {
	ev, err := w.Watch.Next(ctx)
	if err == nil && ev.Kind == backend.Progress && w.syncs == 1 {
		if _, err := w.s.Store.Put(ctx, "d/more", nil, backend.PutOptions{}); err != nil {
			return ev, err
		}
		<-w.s.more
	}
	return ev, err
}

// R23, R25: a reader that catches up goes back to the shared stream also if the
// store did not take the question whether it has.
func TestCatchingUpAsksAgain(t *testing.T) {
	b := &asked{Store: memkv.New(memkv.Options{}), more: make(chan struct{})}
	s := kv.New(b)
	defer s.Close()
	ctx := limited(t)
	first := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
	defer first.Close()
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/k", nil))
	token := must[kv.Event[[]byte]](t)(first.Next(ctx)).Token
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/k", nil))

	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.Resume(token)))
	defer w.Close()
	go func() {
		for {
			ev, err := first.Next(ctx)
			if err != nil {
				return
			}
			if ev.Entry.Key == "d/more" {
				close(b.more)
			}
		}
	}()
	go func() {
		for {
			if _, err := w.Next(ctx); err != nil {
				return
			}
		}
	}()
	synced, cancel := pace.Watch(t).Timeout(ctx, 5*time.Second)
	defer cancel()
	if err := w.Sync(synced); err != nil {
		t.Errorf("it has not caught up: %v", err)
	}
	if b.refused.Load() == 0 {
		t.Error("no question was refused")
	}
}

// R38: Sync does not wait for a reader who has been told that the watch is over.
func TestSyncOfWatchThatEnded(t *testing.T) {
	b := &tapped{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	ctx := limited(t)
	other := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot())) // keeps the shared stream alive
	defer other.Close()
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
	defer w.Close()
	asked := make(chan error, 1)
	b.loseHistory()
	must[kv.Entry[[]byte]](t)(s.Put(ctx, "d/k", nil))
	matches(t, "Next", must1(w.Next(ctx)), kv.ErrHistoryLost)
	go func() { asked <- w.Sync(context.Background()) }() // without a deadline, or that would end it
	select {
	case err := <-asked:
		matches(t, "Sync", err, kv.ErrHistoryLost)
	case <-time.After(20 * time.Second):
		t.Error("Sync waits for a watch that has ended")
	}
	matches(t, "Next again", must1(w.Next(ctx)), kv.ErrHistoryLost)
}

// deaf is a driver's store without history, whose GetMany answers when its
// context ends.
type deaf struct {
	backend.Store
	asked chan struct{} // closed when it was called
}

func (s *deaf) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	if o.Resume != "" {
		return nil, backend.ErrHistoryLost
	}
	return s.Store.Watch(ctx, prefix, o)
}

func (s *deaf) GetMany(ctx context.Context, _ []string, _ backend.GetOptions) ([]backend.Entry, error) {
	close(s.asked)
	<-ctx.Done()
	return nil, backend.ContextError(ctx)
}

// R38: a reader who mends what it missed heeds the context that the watch was
// opened with, and Close does not wait for the store.
func TestMendingWatchEnds(t *testing.T) {
	b := &deaf{Store: memkv.New(memkv.Options{}), asked: make(chan struct{})}
	s := kv.New(b, kv.WatchBuffer(1000))
	defer s.Close()
	ctx, cancel := pace.Watch(t).Timeout(t.Context(), 5*time.Second)
	defer cancel()
	w := must[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
	if ev := must[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Kind != kv.Synced {
		t.Fatalf("got %+v", ev)
	}
	for i := range 6 {
		must[kv.Entry[[]byte]](t)(s.Put(ctx, fmt.Sprint("d/", i), nil))
	}
	for kv.Held(w) < 1200 { // until more waits than its buffer takes
		if runtime.Gosched(); ctx.Err() != nil {
			t.Fatal("the shared stream stands still")
		}
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-b.asked
		w.Close()
	}()
	for {
		if _, err := w.Next(ctx); err != nil {
			matches(t, "Next", err, kv.ErrClosed)
			break
		}
	}
	<-closed
	if ctx.Err() != nil {
		t.Error("it has waited for the store")
	}
}

// silent is a driver's store whose watches do not take a Sync for a while.
type silent struct {
	backend.Store
	away  atomic.Bool
	since atomic.Pointer[time.Time] // of Health, while away
}

func (s *silent) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	w, err := s.Store.Watch(ctx, prefix, o)
	return silentWatch{w, s}, err
}

type silentWatch struct {
	backend.Watch
	s *silent
}

func (w silentWatch) Sync(ctx context.Context) error {
	if w.s.away.Load() {
		return backend.ErrUnavailable
	}
	return w.Watch.Sync(ctx)
}

func (w silentWatch) Health() backend.Health {
	h := w.Watch.Health()
	if since := w.s.since.Load(); since != nil && w.s.away.Load() {
		h.DisconnectedSince = *since
	}
	return h
}

// TestSyncOfAbsentStore is R38: a Sync without a deadline does not wait for ever.
func TestSyncOfAbsentStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &silent{Store: memkv.New(memkv.Options{})}
		s := kv.New(b)
		defer s.Close()
		w := must[*kv.Watch[[]byte]](t)(s.Watch(t.Context(), "d"))
		go func() {
			for range w.Events() {
			}
		}()
		ctx := context.WithoutCancel(t.Context())
		b.away.Store(true)
		// It is heard of four seconds after the Sync that the store has gone.
		begin := time.Now()
		later := begin.Add(4 * time.Second)
		b.since.Store(&later)
		err := w.Sync(ctx)
		matches(t, "Sync", err, kv.ErrUnavailable)
		if d := time.Since(begin); d != 9*time.Second || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", d, err)
		}
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		begin = time.Now()
		err = w.Sync(limited)
		matches(t, "Sync with a deadline", err, context.DeadlineExceeded)
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("with a deadline of a minute: %v", d)
		}
		b.since.Store(nil) // a store that is there and takes its time is waited for
		time.AfterFunc(time.Hour, func() { b.away.Store(false) })
		if err := w.Sync(ctx); err != nil {
			t.Error(err)
		}
	})
}

// R23: those who have given up waiting in Sync cost nothing, however many they
// were while the store was away, and whoever waits on is answered.
func TestSyncsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &silent{Store: memkv.New(memkv.Options{})}
		s := kv.New(b)
		defer s.Close()
		w := must[*kv.Watch[[]byte]](t)(s.Watch(t.Context(), "d"))
		go func() {
			for range w.Events() {
			}
		}()
		b.away.Store(true)
		patient := make(chan error, 1)
		go func() { patient <- w.Sync(t.Context()) }()
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := w.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		if n := kv.Marks(w); n > 10 {
			t.Errorf("%d marks are kept for one who waits", n)
		}
		b.away.Store(false)
		if err := <-patient; err != nil {
			t.Error(err)
		}
		if err := w.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if n := kv.Marks(w); n != 0 {
			t.Errorf("%d marks are kept for nobody", n)
		}
	})
}
