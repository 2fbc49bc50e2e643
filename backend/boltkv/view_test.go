package boltkv

import (
	"path/filepath"
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
