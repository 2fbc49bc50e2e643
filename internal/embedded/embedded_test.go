package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entries is a sorted keyspace to try a Range on.
var entries = []string{"a", "a-", "a/b", "a/b/c", "a/b/d", "a/b-", "a/b0", "a/c/d/e", "a0", "b", "ü/x"}

// walk lists entries as a driver does.
func walk(r Range) (names []string) {
	keys := slices.Clone(entries)
	slices.Sort(keys)
	from := r.Start()
	for _, k := range keys {
		if k < from {
			continue
		}
		if !r.Covers(k) {
			break
		}
		name, next := r.Place(k)
		if name != "" {
			names = append(names, name)
		}
		if next != "" {
			from = next
		}
	}
	return names
}

// R3, R14: every position of After gives the rest of the whole list.
func TestRangeAfter(t *testing.T) {
	for _, prefix := range []string{"", "a", "a/b", "ü", "none"} {
		for _, children := range []bool{false, true} {
			all := walk(RangeOf(prefix, backend.ListOptions{Children: children}))
			for i, name := range all {
				if prefix != "" && !strings.HasPrefix(name, prefix+"/") {
					t.Errorf("%q listed below %q", name, prefix)
				}
				if i > 0 && name <= all[i-1] {
					t.Errorf("%q after %q", name, all[i-1])
				}
				rest := walk(RangeOf(prefix, backend.ListOptions{Children: children, After: name}))
				if fmt.Sprint(rest) != fmt.Sprint(all[i+1:]) {
					t.Errorf("below %q (children %t) after %q: %q, want %q", prefix, children, name, rest, all[i+1:])
				}
			}
		}
	}
	if got := walk(RangeOf("a", backend.ListOptions{Children: true})); fmt.Sprint(got) != "[a/b a/b- a/b/ a/b0 a/c/]" {
		t.Errorf("children of a: %q", got)
	}
}

// R28: rounding is up, and the longest TTL is no overflow.
func TestDeadline(t *testing.T) {
	now := time.UnixMilli(1000).Add(300 * time.Microsecond)
	for ttl, want := range map[time.Duration]int64{
		0: 0, 1: 1001, time.Millisecond: 1002, 700 * time.Microsecond: 1001, time.Second: 2001,
	} {
		if got := Deadline(now, ttl); got != want {
			t.Errorf("%v: %d, want %d", ttl, got, want)
		}
	}
	if got := Deadline(time.Now(), 1<<63-1); got < time.Now().UnixMilli() {
		t.Errorf("the longest TTL ends at %d", got)
	}
}

func commit(rev backend.Revision, keys ...string) *Commit {
	c := &Commit{Revision: rev}
	for _, k := range keys {
		c.Changes = append(c.Changes, Change{Kind: backend.Created, Key: k, Record: Record{Revision: rev, Created: rev}})
	}
	return c
}

func next(t *testing.T, w *Watcher) backend.Event {
	t.Helper()
	ev, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// R21, R23: a watcher that the ring has left behind reads the log, and comes
// back to the ring without a gap or a repeat.
func TestWatcherFallsBackToLog(t *testing.T) {
	f := NewFeed(1, 1000)
	var log []*Commit
	read := 0
	w, err := f.Watch(t.Context(), Stream{
		From: 1, WatchOptions: backend.WatchOptions{Prev: true},
		Log: func(_ context.Context, rev backend.Revision) (found []*Commit, err error) {
			read++
			for _, c := range log {
				if c.Revision > rev && len(found) < 3 {
					found = append(found, c)
				}
			}
			return found, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for rev := backend.Revision(2); rev < 50; rev++ {
		c := commit(rev, fmt.Sprint("k", rev))
		log = append(log, c)
		f.Publish(c)
	}
	for rev := backend.Revision(2); rev < 50; rev++ {
		if ev := next(t, w); ev.Revision != rev {
			t.Fatalf("revision %d, want %d", ev.Revision, rev)
		}
	}
	if read == 0 {
		t.Error("the log was not read")
	}
	before := read
	f.Publish(commit(50, "k50"))
	if ev := next(t, w); ev.Revision != 50 || read != before {
		t.Errorf("revision %d after %d reads of the log, want 50 after %d", ev.Revision, read, before)
	}
}

// A gap that the feed is told of loses whoever reads across it.
func TestFeedSkip(t *testing.T) {
	f := NewFeed(1, 1000)
	w, err := f.Watch(t.Context(), Stream{From: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f.Skip(7)
	if _, err := w.Next(t.Context()); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("Next across a gap: %v", err)
	}
}

// Sync is answered once, after what was published, and only when asked.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFeed(1, 1000)
		w, err := f.Watch(t.Context(), Stream{Prefix: "a", From: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		f.Publish(commit(2, "a/x"), commit(3, "b/x"))
		for range 3 {
			if err := w.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if ev := next(t, w); ev.Key != "a/x" {
			t.Errorf("got %+v", ev)
		}
		if ev := next(t, w); ev.Kind != backend.Progress || ev.Revision != 3 || ev.Token == "" {
			t.Errorf("got %+v", ev)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if ev, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("unasked: %+v, %v", ev, err)
		}
	})
}

func contend(t *testing.T, l *Locks, o backend.ContendOptions) backend.Contender {
	t.Helper()
	c, err := l.Contend(t.Context(), nil, "lock", o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func admitted(c backend.Contender) bool {
	select {
	case <-c.(*contender).ready:
		return true
	default:
		return false
	}
}

// R31: while a transaction relies on a place, nobody else is admitted.
func TestPinnedPlaceStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLocks(time.Second, 0, nil)
		a := contend(t, l, backend.ContendOptions{Lease: time.Second})
		b := contend(t, l, backend.ContendOptions{Lease: time.Hour})
		defer b.Release(t.Context())
		p := l.pin(a.Check(), time.Now())
		if p == nil {
			t.Fatal("no place")
		}
		if l.pin(b.Check(), time.Now()) != nil {
			t.Error("a contender that waits passes for a holder")
		}
		time.Sleep(2 * time.Second) // the lease ends
		synctest.Wait()
		select {
		case <-a.Lost():
		default:
			t.Error("the place is not lost")
		}
		if l.pin(a.Check(), time.Now()) != nil {
			t.Error("a lost place passes for one that is held")
		}
		if admitted(b) {
			t.Error("admitted although the transaction goes on")
		}
		l.unpin(p)
		if err := b.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// R31: tokens grow in the order of admission, also where that is not the
// order of arrival, as among semaphores that do not agree on their size.
func TestTokensGrowByAdmission(t *testing.T) {
	l := NewLocks(time.Second, 41, nil)
	two, four := backend.ContendOptions{Lease: time.Hour, Slots: 2}, backend.ContendOptions{Lease: time.Hour, Slots: 4}
	head, second := contend(t, l, two), contend(t, l, two)
	waits, passes := contend(t, l, two), contend(t, l, four)
	if head.Token() != 42 || second.Token() != 43 || !admitted(passes) || passes.Token() != 44 || admitted(waits) {
		t.Errorf("tokens %d, %d, %d, %d", head.Token(), second.Token(), waits.Token(), passes.Token())
	}
	for _, c := range []backend.Contender{head, second, passes} {
		if err := c.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if !admitted(waits) || waits.Token() != 45 {
		t.Errorf("token %d", waits.Token())
	}
	if err := waits.Release(t.Context()); err != nil {
		t.Error(err)
	}
	l.Wait()
}

// R31: no token is given that was not reserved before.
func TestTokensAreReserved(t *testing.T) {
	var upTo uint64
	calls := 0
	l := NewLocks(time.Second, 0, func(_ context.Context, n uint64) error {
		upTo, calls = n, calls+1
		return nil
	})
	for range 3000 {
		c := contend(t, l, backend.ContendOptions{Lease: time.Hour})
		if c.Token() == 0 || c.Token() > upTo {
			t.Fatalf("token %d, reserved up to %d", c.Token(), upTo)
		}
		if err := c.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if calls > 4 {
		t.Errorf("reserved %d times", calls)
	}
	broken := errors.New("broken")
	l.reserve = func(context.Context, uint64) error { return broken }
	for i := range 2000 {
		c, err := l.Contend(t.Context(), nil, "lock", backend.ContendOptions{Lease: time.Hour})
		if err != nil {
			if !errors.Is(err, broken) || i == 0 {
				t.Errorf("after %d: %v", i, err)
			}
			return
		}
		if err := c.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Error("tokens without a reservation")
}

// Whatever lies within a range has no key that the range has not.
func TestRangeWithin(t *testing.T) {
	keys := []string{"a", "a/b", "a/b/c", "a/c", "ab", "b/a"}
	var ranges []Range
	for _, prefix := range []string{"", "a", "a/b", "b"} {
		for _, after := range []string{"", "a/b", "a/b/c", "b"} {
			for _, children := range []bool{false, true} {
				ranges = append(ranges, RangeOf(prefix, backend.ListOptions{After: after, Children: children}))
			}
		}
		if prefix != "" {
			ranges = append(ranges, RangeOfKey(prefix))
		}
	}
	has := func(r Range, key string) bool { return key >= r.Start() && r.Covers(key) }
	within := 0
	for _, r := range ranges {
		for _, o := range ranges {
			if !r.Within(o) {
				continue
			}
			within++
			for _, key := range keys {
				if has(r, key) && (!has(o, key) || o.children) {
					t.Errorf("%+v is within %+v, but has %q", r, o, key)
				}
			}
		}
		if !r.children && !r.Within(r) {
			t.Errorf("%+v is not within itself", r)
		}
	}
	if within < 50 {
		t.Errorf("only %d ranges are within others", within)
	}
}

// A context may end while the watch is being opened (a race, before).
func TestWatchWhoseContextEndsAtOnce(t *testing.T) {
	f := NewFeed(1, 1<<10)
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			cancel()
		}()
		w, err := f.Watch(ctx, Stream{Session: make(chan struct{}), Store: "test", From: 1})
		if err == nil {
			_, err = w.Next(t.Context())
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		<-ended
	}
}
