package boltkv_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// putting has several goroutines put d/k until stop is called.
func putting(t *testing.T, s backend.Store) (stop func()) {
	t.Helper()
	over := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				if _, err := s.Put(t.Context(), "d/k", fmt.Append(nil, i, n), backend.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		close(over)
		wg.Wait()
	}
}

// R12: a list is not older than what a Get has told before, also while the write that it told of is on its way to the
// watchers.
func TestListAfterGet(t *testing.T) {
	ctx := t.Context()
	s, err := openURL(ctx, "bolt://"+filepath.Join(t.TempDir(), "kv.db")+"?nosync=true", boltkv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer putting(t, s)()
	for range 3000 {
		got, err := s.Get(ctx, "d/k", backend.GetOptions{})
		if err != nil && got.Revision == 0 {
			continue // not there yet
		}
		for e, err := range s.List(ctx, "d", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Revision < got.Revision {
				t.Fatalf("the list has revision %d after a Get of %d", e.Revision, got.Revision)
			}
		}
	}
}

// R21: a watch that is resumed in another process, and again in a third one before it has come to what the second one
// wrote, goes on where it was.
func TestResumeTwice(t *testing.T) {
	ctx := t.Context()
	url := "bolt://" + filepath.Join(t.TempDir(), "kv.db") + "?history=true"
	process := func(f func(s backend.Store)) {
		t.Helper()
		s, err := openURL(ctx, url, boltkv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		f(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var token backend.Token
	process(func(s backend.Store) {
		w, err := s.Watch(ctx, "", backend.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if _, err := s.Put(ctx, "k", fmt.Append(nil, i), backend.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		token = ev.Token
	})
	for i := range 3 {
		process(func(s backend.Store) {
			w, err := s.Watch(ctx, "", backend.WatchOptions{Resume: token})
			if err != nil {
				t.Fatal(err)
			}
			ev, err := w.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(i + 1); string(ev.Value) != want {
				t.Fatalf("the watch goes on with %q, want %q", ev.Value, want)
			}
			token = ev.Token
			if _, err := s.Put(ctx, "other", nil, backend.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// R12: what Sync answers for is not older than what a Get has told before.
func TestSyncAfterGet(t *testing.T) {
	ctx := t.Context()
	s, err := openURL(ctx, "bolt://"+filepath.Join(t.TempDir(), "kv.db"), boltkv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := s.Watch(ctx, "d", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer putting(t, s)()
	for got := (backend.Entry{}); got.Revision < 500; {
		if got, err = s.Get(ctx, "d/k", backend.GetOptions{}); err != nil {
			continue // not there yet
		}
		if err := w.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		for {
			ev, err := w.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind == backend.Progress {
				if ev.Revision < got.Revision {
					t.Fatalf("the watch is complete up to %d after a Get of %d", ev.Revision, got.Revision)
				}
				break
			}
		}
	}
}
