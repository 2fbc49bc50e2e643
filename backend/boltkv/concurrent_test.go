package boltkv_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R38: a write that waits for somebody else's transaction can be given up,
// and then was not applied.
func TestCancelWhileDatabaseIsBusy(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	before := put(t, s, "k", "before", backend.PutOptions{})
	tx, err := db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("enough"))
	defer cancel()
	start := time.Now()
	_, err = s.Put(ctx, "k", []byte("after"), backend.PutOptions{})
	wantErr(t, "Put", err, context.DeadlineExceeded, context.Cause(ctx))
	if errors.Is(err, backend.ErrUncertain) {
		t.Errorf("a write that had no turn is uncertain: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("returned after %v", d)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "other", "", backend.PutOptions{})
	if e := get(t, s, "k"); e.Revision != before.Revision {
		t.Errorf("%+v was written", e)
	}
}

// R39: Close ends what waits for somebody else's transaction.
func TestCloseWhileDatabaseIsBusy(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	tx, err := db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	p := s.Peer()
	done := make(chan error)
	go func() {
		_, err := p.Put(t.Context(), "k", nil, backend.PutOptions{})
		done <- err
	}()
	for p.Waiting() == 0 {
		runtime.Gosched()
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wantErr(t, "Put", <-done, backend.ErrClosed)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

// A second store on one bucket would know nothing of the first one's locks and
// watches. It takes over, and the first one says so.
func TestSecondStoreTakesOver(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	put(t, s, "k", "1", backend.PutOptions{})
	w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := boltkv.New(db, boltkv.Options{})
	defer second.Close()
	put(t, second, "k", "2", backend.PutOptions{})
	if e := get(t, s, "k"); string(e.Value) != "2" {
		t.Errorf("read %+v", e)
	}
	_, err = s.Put(t.Context(), "k", nil, backend.PutOptions{})
	wantErr(t, "Put of the first store", err, backend.ErrClosed)
	_, err = w.Next(t.Context())
	wantErr(t, "Next of the first store", err, backend.ErrClosed)
	put(t, second, "k", "3", backend.PutOptions{})
}

// R12: readers never see a key go back, nor a value with another's revision,
// and a write that has returned is seen.
func TestReadsUnderWrites(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	db.NoSync = true // many commits, not safe ones
	const nkeys = 8
	key := func(i int) string { return fmt.Sprint("k", i%nkeys) }
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				e, err := s.Put(t.Context(), key(i*2+g), fmt.Appendf(nil, "same%d", i/50), backend.PutOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				// Only this goroutine writes the key.
				if got := get(t, s, e.Key); got.Revision != e.Revision {
					t.Errorf("%s: wrote revision %d, read %d", e.Key, e.Revision, got.Revision)
				}
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			last := [nkeys]backend.Revision{}
			values := map[backend.Revision]string{}
			for i := 0; ctx.Err() == nil; i++ {
				e, err := s.Get(t.Context(), key(i), backend.GetOptions{})
				if errors.Is(err, backend.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if e.Revision < last[i%nkeys] {
					t.Errorf("%s went from %d back to %d", e.Key, last[i%nkeys], e.Revision)
				}
				last[i%nkeys] = e.Revision
				if v, ok := values[e.Revision]; ok && v != string(e.Value) {
					t.Errorf("%s at %d is %q and was %q", e.Key, e.Revision, e.Value, v)
				}
				values[e.Revision] = string(e.Value)
				runtime.Gosched() // or the writers wait for the end of a reader's time slice at each hand-over
			}
		})
	}
	tick := time.NewTicker(time.Millisecond) // to spin would take the processor from those who are tested
	defer tick.Stop()
	for s.Pages() < 20_000 && !t.Failed() {
		<-tick.C
	}
	cancel()
	wg.Wait()
}

// Concurrent writers share commits, and one alone waits for nobody.
func TestWritersShareCommits(t *testing.T) {
	s, _ := open(t, boltkv.Options{})
	put(t, s, "k", "", backend.PutOptions{})
	before := s.Pages()
	const writers, each = 32, 10
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				put(t, s, fmt.Sprint(g, "/", i), "v", backend.PutOptions{})
			}
		})
	}
	wg.Wait()
	if n := s.Pages() - before; n > writers*each { // one commit is at least four
		t.Errorf("%d pages for %d writes", n, writers*each)
	}
}

// R39: Close waits for what is under way and ends what is not, from whichever
// side it comes.
func TestCloseUnderLoad(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "kv.db"))
	db.NoSync = true
	defer db.Close()
	f := foreignTo(db)
	for round := range 20 {
		s := boltkv.New(db, boltkv.Options{})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					var err error
					switch (g + i) % 4 {
					case 0:
						_, err = s.Put(t.Context(), fmt.Sprint(g, "/", i%20), nil, backend.PutOptions{TTL: time.Second})
					case 1:
						_, err = s.Adopt(t.Context(), "")
					case 2:
						_, err = s.Get(context.Background(), fmt.Sprint(g, "/", i%20), backend.GetOptions{})
					case 3:
						for _, err = range s.List(t.Context(), "", backend.ListOptions{}) {
							if err != nil {
								break
							}
						}
					}
					if errors.Is(err, backend.ErrClosed) {
						return
					}
					if err != nil && !errors.Is(err, backend.ErrNotFound) {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range 5 {
			if err := f.Put(t.Context(), fmt.Sprint("foreign", i), fmt.Append(nil, round)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}
