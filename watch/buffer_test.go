package watch_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/polykv/kv/watch"
)

func TestEndWhenSlow(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	for i := range 10 { // more than the buffer: they do not count
		put(t, src, fmt.Sprint(i), i)
	}
	m := newMirror(t, src)
	sub := m.Subscribe(watch.Buffer(3), watch.EndWhenSlow())
	defer sub.Close()
	put(t, src, "0", 1)
	put(t, src, "0", 2)
	put(t, src, "0", 3)
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		next(t, sub, fmt.Sprintf("existing %d %d", i, i))
	}
	next(t, sub, "synced")
	next(t, sub, "updated 0 1 (0)")
	put(t, src, "0", 4)
	next(t, sub, "updated 0 2 (1)")
	for i := range 5 {
		put(t, src, "0", 5+i)
	}
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := sub.Next(limited(t)); !errors.Is(err, watch.ErrSlow) {
			t.Fatalf("want ErrSlow, got %v", err)
		}
	}
	sub.Close()
	if _, err := sub.Next(limited(t)); !errors.Is(err, watch.ErrSlow) {
		t.Errorf("the reason is forgotten: %v", err)
	}
}

// TestEndWhenSlowTellsEachChange: until it ends, with no change left out, also
// of those that come while it reads.
func TestEndWhenSlowTellsEachChange(t *testing.T) {
	src := numbers(newStore(t))
	m := newMirror(t, src)
	sub := m.Subscribe(watch.Buffer(1), watch.EndWhenSlow())
	defer sub.Close()
	next(t, sub, "synced")
	const changes = 5000 // most of which are cut off
	for i := range changes {
		put(t, src, "k", i)
	}
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		ev, ok := watch.Take(sub)
		if !ok {
			break
		}
		if ev.Value != n {
			t.Fatalf("change %d is told as %q", n, show(ev))
		}
	}
	if n == 0 || n == changes {
		t.Errorf("%d of %d changes are told", n, changes)
	}
	if _, err := sub.Next(limited(t)); !errors.Is(err, watch.ErrSlow) {
		t.Errorf("want ErrSlow, got %v", err)
	}
}

// TestFullBuffer: what a buffer takes is told one by one.
func TestFullBuffer(t *testing.T) {
	for _, buffer := range []int{256, 1024, 1025, 4096} {
		src := numbers(newStore(t))
		m := newMirror(t, src)
		sub := m.Subscribe(watch.Buffer(buffer))
		next(t, sub, "synced")
		ctx := limited(t)
		for _, changes := range []int{1024, buffer} { // after the first ones there may be a cut
			for i := range changes {
				put(t, src, "k", i)
			}
			if err := m.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < changes; i++ {
				ev, err := sub.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if ev.Value != i && changes <= buffer {
					t.Fatalf("buffer %d: change %d is told as %q", buffer, i, show(ev))
				}
				i = ev.Value
			}
		}
		sub.Close()
	}
}

// TestAbsentSubscriber: what waits is bounded by the keys that are there, also
// where keys come and go that nobody will ever see again.
func TestAbsentSubscriber(t *testing.T) {
	s := newStore(t)
	src := numbers(s)
	m := newMirror(t, src)
	sub := m.Subscribe(watch.Buffer(10))
	defer sub.Close()
	write := func(n int) {
		for i := range n {
			key := fmt.Sprint("fleeting", i)
			put(t, src, key, i)
			del(t, src, key)
			put(t, src, "flapping", i)
			del(t, src, "flapping")
		}
		if err := m.Sync(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	ctx := limited(t)
	const rounds = 10_000
	write(rounds)
	if n := watch.Waiting(sub); n > 4096 {
		t.Errorf("%d changes are held after %d that left nothing", n, 4*rounds)
	}
	put(t, src, "end", 0)
	if got := until(t, sub, "end"); got > 100 {
		t.Errorf("%d events of changes that left nothing", got)
	}

	// So it is for a subscriber that is always a little behind.
	behind := m.Subscribe(watch.Buffer(1 << 20))
	defer behind.Close()
	next(t, behind, "existing end 0")
	next(t, behind, "synced")
	put(t, src, "k", 0)
	for i := range rounds {
		put(t, src, "k", i+1)
		if _, err := behind.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := watch.Waiting(behind); n > 1000 {
		t.Errorf("%d changes are held for a subscriber that is one behind", n)
	}
}

// TestBufferGoesWithItsSubscriber: what one who has left could have had waiting
// is kept for nobody.
func TestBufferGoesWithItsSubscriber(t *testing.T) {
	src := numbers(newStore(t))
	m := newMirror(t, src)
	sub, large := m.Subscribe(watch.Buffer(10)), m.Subscribe(watch.Buffer(1<<20))
	defer sub.Close()
	large.Close()
	for i := range 10_000 {
		put(t, src, "k", i)
	}
	if err := m.Sync(limited(t)); err != nil {
		t.Fatal(err)
	}
	if n := watch.Waiting(sub); n > 4096 {
		t.Errorf("%d changes are held for a subscriber of 10", n)
	}
	put(t, src, "end", 0)
	if got := until(t, sub, "end"); got > 100 {
		t.Errorf("%d events of one key", got)
	}
}
