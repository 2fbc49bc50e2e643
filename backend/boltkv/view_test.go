package boltkv

import (
	"bytes"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
)

// R12: a view that began before another one became current, and comes late,
// does not take its place once that was dropped: Gets would see keys go back.
func TestLateViewStaysAside(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{
		Timeout:         time.Second,
		InitialMmapSize: 1 << 20, // no write has to wait for the views to map more
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := New(db, Options{})
	defer s.Close()
	put := func(value string) {
		if _, err := s.Put(t.Context(), "k", []byte(value), backend.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() *view {
		tx, err := db.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		v := &view{id: int64(tx.ID()), commits: 1}
		if err := v.open(s.engine, tx); err != nil {
			t.Fatal(err)
		}
		v.refs.Store(1)
		return v
	}
	put("old")
	late := begin()
	put("new")
	current := begin()
	s.views.install(current)
	if s.views.current.Load() != current {
		t.Error("the view is not current")
	}
	s.views.drop(current)
	s.views.install(late)
	if v := s.views.current.Load(); v != nil {
		t.Errorf("view %d became current after %d", v.id, current.id)
	}
	late.release()
	current.release()
	if n := db.Stats().OpenTxN; n != 0 {
		t.Errorf("%d transactions are open", n)
	}
}

// A view that takes another one's place while a write waits to map more of the
// file, and somebody else waits behind that write to begin, holds nobody up:
// whoever ends a transaction in bbolt must not have another one.
func TestNewViewBesideGrowingFile(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{
		Timeout:         time.Second,
		InitialMmapSize: 1 << 20, // only the large write has to wait for the views
	})
	if err != nil {
		t.Fatal(err)
	}
	s := New(db, Options{})
	put := func(n int) error {
		_, err := s.Put(t.Context(), "k", bytes.Repeat([]byte("v"), n), backend.PutOptions{})
		return err
	}
	if err := put(1); err != nil {
		t.Fatal(err)
	}
	old := beginView(t, s.engine)
	s.views.current.Store(old) // and without the timer that lets go of it
	if err := put(2); err != nil {
		t.Fatal(err)
	}
	next := beginView(t, s.engine)

	var wg sync.WaitGroup
	wg.Go(func() {
		if err := put(4 << 20); err != nil {
			t.Errorf("the write: %v", err)
		}
	})
	// Once a transaction does not begin, the write waits for the two views to
	// end.
	for behind := false; !behind; {
		begun := make(chan struct{})
		wg.Go(func() {
			tx, err := db.Begin(false)
			if err != nil {
				t.Errorf("the transaction behind: %v", err)
			} else {
				rollback(tx)
			}
			close(begun)
		})
		select {
		case <-begun:
		case <-time.After(100 * time.Millisecond):
			behind = true
		}
	}
	done := make(chan struct{})
	go func() {
		s.views.install(next)
		next.release()
		s.views.drop(next)
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the views, the write and the transaction behind it wait for each other")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// beginView begins a view as openView does.
func beginView(t *testing.T, e *engine) *view {
	tx, err := e.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	v := &view{id: int64(tx.ID()), commits: commitCount(e.db)}
	if err := v.open(e, tx); err != nil {
		t.Fatal(err)
	}
	v.refs.Store(1)
	return v
}
