package watch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/watch"
)

// same compares a mirror with its store.
func same(t testing.TB, m *watch.Mirror[int], src *kv.Typed[int]) {
	t.Helper()
	want, err := kv.Collect(src.List(limited(t), ""))
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Collect(m.All())
	if !slices.Equal(got, want) {
		t.Fatalf("the mirror has %d entries, the store %d: %v, %v", len(got), len(want), got, want)
	}
	if m.Len() != len(want) {
		t.Fatalf("Len is %d of %d", m.Len(), len(want))
	}
}

// churn makes n random writes below dir.
func churn(t testing.TB, src *kv.Typed[int], dir string, n int, rng *rand.Rand) {
	ctx := context.Background()
	for i := range n {
		key := fmt.Sprintf("%s/%d", dir, rng.IntN(8))
		var err error
		if rng.IntN(3) == 0 {
			if err = src.Delete(ctx, key); errors.Is(err, kv.ErrNotFound) {
				err = nil
			}
		} else {
			_, err = src.Put(ctx, key, i)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func TestMirrorConverges(t *testing.T) {
	for _, tc := range []struct {
		name   string
		lose   bool
		memory int // bytes of the store's history
		buffer int // bytes that a watch holds
	}{
		{name: "plain"},
		{name: "small buffers", memory: 4000, buffer: 2000},
		{name: "history lost", lose: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &lossy{Store: memkv.New(memkv.Options{WatchBuffer: tc.memory})}
			s := kv.New(b, kv.WatchBuffer(tc.buffer))
			defer s.Close()
			src := numbers(s)
			put(t, src, "w0/1", 7)
			m, err := watch.NewMirror(limited(t), src)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			// A handler must see, change by change, what the mirror saw.
			seen := map[string]kv.Entry[int]{}
			m.OnChange(func(c watch.Change[int]) {
				if seen[c.Key] != c.Old {
					t.Errorf("%s: the old entry is %v, and was told as %v", c.Key, c.Old, seen[c.Key])
				}
				if c.New.Revision == 0 {
					delete(seen, c.Key)
				} else {
					seen[c.Key] = c.New
				}
			})
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			var writers sync.WaitGroup
			for i := range 4 {
				writers.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					for range 10 {
						churn(t, src, fmt.Sprintf("w%d", i), 100, rng)
						if tc.lose && i == 0 {
							b.lose()
						}
					}
				})
			}
			writers.Wait()
			if err := m.Sync(limited(t)); err != nil {
				t.Fatal(err)
			}
			same(t, m, src)
			soon(t, "differences are complete", func() bool { return m.Status().Synced })
			if m.Lag() != 0 || m.Err() != nil {
				t.Errorf("lag %v, error %v", m.Lag(), m.Err())
			}
			if err := m.Close(); err != nil { // waits for the handler
				t.Fatal(err)
			}
			if len(seen) != m.Len() {
				t.Errorf("the handler knows %d entries of %d", len(seen), m.Len())
			}
		})
	}
}

func TestMirrorReadsYourWrites(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range 500 {
		e := put(t, src, "k", i)
		if i%2 == 0 {
			err = m.Wait(limited(t), e.Revision)
		} else {
			err = m.Sync(limited(t))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.Get("k"); !ok || got != e {
			t.Fatalf("after its write the mirror has %v, want %v", got, e)
		}
	}
	// The revision of a later write was seen: nothing need be asked.
	first := put(t, src, "k", 1)
	last := put(t, src, "k", 2)
	if err := m.Wait(limited(t), last.Revision); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(limited(t), first.Revision); err != nil {
		t.Fatal(err)
	}
	if r := m.Status().Revision; r != last.Revision {
		t.Errorf("the status says revision %d, the last write %d", r, last.Revision)
	}
}

// unordered lists as a store without snapshots may: an entry that was written
// behind the listing's back is missing, and one with a higher revision there.
type unordered struct {
	backend.Store
	hold  chan struct{} // the listing waits before its last entry
	reach chan struct{}
}

func (s *unordered) Capabilities() backend.Capabilities {
	c := s.Store.Capabilities()
	c.SnapshotList = false
	return c
}

func (s *unordered) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		first, err := s.Get(ctx, "n/a", backend.GetOptions{})
		if !yield(first, err) {
			return
		}
		s.reach <- struct{}{}
		<-s.hold
		last, err := s.Get(ctx, "n/z", backend.GetOptions{})
		yield(last, err)
	}
}

// TestWaitAfterUnorderedList: the highest revision of a list that is no
// snapshot says nothing of lower ones.
func TestWaitAfterUnorderedList(t *testing.T) {
	b := &unordered{Store: memkv.New(memkv.Options{}), hold: make(chan struct{}), reach: make(chan struct{})}
	s := kv.New(b)
	defer s.Close()
	src := numbers(s)
	put(t, src, "a", 1)
	put(t, src, "z", 1)
	var e kv.Entry[int]
	go func() {
		<-b.reach
		e = put(t, src, "b", 5) // passed by the listing
		put(t, src, "z", 6)     // in the listing, with a higher revision
		b.hold <- struct{}{}
	}()
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Wait(limited(t), e.Revision); err != nil {
		t.Fatal(err)
	}
	if got, ok := m.Get("b"); !ok || got != e {
		t.Fatalf("Wait returned before the write was there: %v %v", got, ok)
	}
}

func TestMirrorReads(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i, key := range []string{"a", "a/b", "a/b/c", "ab", "z"} {
		put(t, src, key, i)
	}
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	keysOf := func(seq func(func(kv.Entry[int]) bool)) (out []string) {
		for e := range seq {
			out = append(out, e.Key)
		}
		return out
	}
	for _, tc := range []struct {
		prefix string
		want   []string
	}{
		{"", []string{"a", "a/b", "a/b/c", "ab", "z"}},
		{"a", []string{"a/b", "a/b/c"}},
		{"/a//b/", []string{"a/b/c"}},
		{"none", nil},
		{"\x00", nil},
	} {
		if got := keysOf(m.Below(tc.prefix)); !slices.Equal(got, tc.want) {
			t.Errorf("below %q: %q, want %q", tc.prefix, got, tc.want)
		}
	}
	for key, want := range map[string]bool{"a": true, "//a/b/": true, "b": false, "": false, "\xff": false} {
		if _, ok := m.Get(key); ok != want {
			t.Errorf("Get(%q) is %v", key, ok)
		}
	}
	for e := range m.All() { // what changes meanwhile does not show
		if e.Key == "a" {
			put(t, src, "b", 9)
			if err := m.Sync(limited(t)); err != nil {
				t.Fatal(err)
			}
		}
		if e.Key == "b" {
			t.Error("the loop shows a later write")
		}
	}
	sub, err := watch.NewMirror(limited(t), src.Sub("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if got := keysOf(sub.All()); !slices.Equal(got, []string{"b", "b/c"}) {
		t.Errorf("of a part: %q", got)
	}
}

// TestOnChange: what is there and then the changes, without gap or repeat,
// whenever the handler comes and goes.
func TestOnChange(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(done)
		for i := range 3000 {
			put(t, src, "k", i)
		}
	})
	var stops []func()
	for running := true; running; {
		last := -1
		stops = append(stops, m.OnChange(func(c watch.Change[int]) {
			if c.Old.Revision == 0 && last != -1 || c.Old.Revision != 0 && c.Old.Value != last {
				t.Errorf("old %v after %d", c.Old, last)
			}
			if last != -1 && c.New.Value != last+1 {
				t.Errorf("%d after %d", c.New.Value, last)
			}
			last = c.New.Value
		}))
		if err := m.Sync(limited(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			running = false
		default:
		}
		if len(stops) > 20 {
			stops[0]()
			stops = stops[1:]
		}
	}
	writing.Wait()
	for _, stop := range stops {
		stop()
		stop() // idempotent
	}
	var calls atomic.Int64
	m.OnChange(func(watch.Change[int]) { calls.Add(1) })()
	put(t, src, "k", -1)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	if n := calls.Load(); n > 1 {
		t.Errorf("a handler that was stopped ran %d times", n)
	}
}

// TestHandlerStopsInReplay: a handler may take itself off, during the replay
// too, and may bring another.
func TestHandlerStopsInReplay(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i := range 10 {
		put(t, src, fmt.Sprint(i), i)
	}
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var stop func()
	ready := make(chan struct{})
	var calls, others atomic.Int64
	stop = m.OnChange(func(watch.Change[int]) {
		<-ready
		if calls.Add(1) == 3 {
			stop()
			m.OnChange(func(watch.Change[int]) { others.Add(1) })
		}
	})
	close(ready)
	put(t, src, "x", 1)
	soon(t, "the other handler has all", func() bool { return others.Load() == 11 })
	if n := calls.Load(); n != 3 {
		t.Errorf("the handler ran %d times after it was stopped in its third", n)
	}
}

func TestMirrorKeepsLastGoodValue(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	if _, err := s.Put(t.Context(), "n/bad", []byte("{")); err != nil {
		t.Fatal(err)
	}
	put(t, src, "good", 1)
	var mu sync.Mutex
	var errs []error
	m, err := watch.NewMirror(limited(t), src, nil, watch.OnBadValue(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, ok := m.Get("bad"); ok {
		t.Error("a value that does not decode is there")
	}
	bad, err := s.Put(t.Context(), "n/good", []byte("secret{"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(limited(t), bad.Revision); err != nil {
		t.Fatal(err)
	}
	if e, ok := m.Get("good"); !ok || e.Value != 1 {
		t.Errorf("the last good value is %v %v", e, ok)
	}
	put(t, src, "bad", 2) // mended
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	if e, ok := m.Get("bad"); !ok || e.Value != 2 {
		t.Errorf("the value that was mended is %v %v", e, ok)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(errs) != 2 || !undecodable(errs[0]) || !undecodable(errs[1]) {
		t.Errorf("errors: %v", errs)
	}
}

func TestMirrorOpens(t *testing.T) {
	s := newStore(t, kv.Intercept(func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
		if c.Op == kv.OpWatch && c.Key == "slow" {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return next(ctx)
	}))
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := watch.NewMirror(ctx, s.Sub("slow"))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("with an ended context: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if _, err = watch.NewMirror(ctx, s.Sub("slow")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that ends: %v", err)
	}
	if _, err = watch.NewMirror(t.Context(), s.Sub("\x00")); !errors.Is(err, kv.ErrInvalidKey) {
		t.Errorf("of no prefix: %v", err)
	}
	// The context bounds the opening only.
	ctx, stop = context.WithCancel(t.Context())
	m, err := watch.NewMirror(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := m.Sync(limited(t)); err != nil || m.Err() != nil {
		t.Errorf("after the end of the context that opened it: %v, %v", err, m.Err())
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

func TestMirrorEnds(t *testing.T) {
	for _, by := range []string{"its Close", "the store's Close"} {
		t.Run(by, func(t *testing.T) {
			s := kv.New(memkv.New(memkv.Options{}))
			defer s.Close()
			src := numbers(s)
			put(t, src, "k", 1)
			m, err := watch.NewMirror(limited(t), src)
			if err != nil {
				t.Fatal(err)
			}
			sub := m.Subscribe()
			next(t, sub, "existing k 1")
			next(t, sub, "synced")
			if by == "its Close" {
				m.Close()
			} else {
				s.Close()
			}
			<-m.Done()
			wantErr := by != "its Close"
			if got := errors.Is(m.Err(), kv.ErrClosed); got != wantErr {
				t.Errorf("Err is %v", m.Err())
			}
			for range 2 {
				if _, err := sub.Next(limited(t)); !errors.Is(err, kv.ErrClosed) {
					t.Errorf("the subscription's error: %v", err)
				}
			}
			if err := m.Sync(limited(t)); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("Sync: %v", err)
			}
			// What it has can still be had.
			if e, ok := m.Get("k"); !ok || e.Value != 1 {
				t.Errorf("Get: %v %v", e, ok)
			}
			late := m.Subscribe()
			next(t, late, "existing k 1")
			next(t, late, "synced")
			if _, err := late.Next(limited(t)); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("a late subscription's error: %v", err)
			}
			ix := watch.NewIndex(m, func(e kv.Entry[int]) []int { return []int{e.Value} })
			if n := len(slices.Collect(ix.Get(1))); n != 1 {
				t.Errorf("a late index finds %d", n)
			}
			if err := errors.Join(sub.Close(), late.Close(), ix.Close(), m.Close(), m.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMirrorExpires: an entry goes at its TTL, without a reader.
func TestMirrorExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
		src := numbers(s)
		m, err := watch.NewMirror(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if _, err := src.Put(t.Context(), "k", 1, kv.TTL(5*time.Second)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if m.Len() != 1 {
			t.Fatal("not there")
		}
		time.Sleep(5*time.Second + s.Capabilities().TTLSlack)
		synctest.Wait()
		if m.Len() != 0 {
			t.Error("still there after its TTL")
		}
	})
}

func TestIndex(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	put(t, src, "a", 12)
	put(t, src, "b", 3)
	m, err := watch.NewMirror(limited(t), src)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	// By each decimal digit.
	ix := watch.NewIndex(m, func(e kv.Entry[int]) (out []rune) {
		for _, d := range fmt.Sprint(e.Value) {
			out = append(out, d)
		}
		return out
	})
	check := func(digit rune, want ...string) {
		t.Helper()
		if err := m.Sync(limited(t)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range ix.Get(digit) {
			got = append(got, e.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("digit %c: %q, want %q", digit, got, want)
		}
	}
	check('1', "a")
	check('3', "b")
	put(t, src, "0", 31)
	check('1', "0", "a")
	check('3', "0", "b")
	put(t, src, "a", 45) // moves
	check('1', "0")
	check('2')
	check('5', "a")
	del(t, src, "0")
	check('1')
	check('3', "b")
	for range ix.Get('5') {
		break // leaves nothing behind
	}
	if err := errors.Join(ix.Close(), ix.Close()); err != nil {
		t.Error(err)
	}
	put(t, src, "c", 3)
	check('3', "b") // it follows no longer
}
