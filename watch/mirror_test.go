package watch_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

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

// TestRevisionAfterRepair: what a repair tells may have no revision, as deletes;
// the mirror has not forgotten what it applied before.
func TestRevisionAfterRepair(t *testing.T) {
	b := &lossy{Store: memkv.New(memkv.Options{})}
	s := kv.New(b)
	defer s.Close()
	src := numbers(s)
	put(t, src, "kept", 1)
	last := put(t, src, "gone", 2)
	m := newMirror(t, src)
	b.lose()
	del(t, src, "gone")
	soon(t, "the repair is over", func() bool { return m.Len() == 1 && m.Status().Synced })
	if r := m.Status().Revision; r < last.Revision {
		t.Errorf("the status says revision %d, and %d was applied", r, last.Revision)
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
