package boltkv_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R6: a later version's bookkeeping is refused.
func TestNewerSchema(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("kv=kv")).Put([]byte("schema"), []byte("2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	later := boltkv.New(db, boltkv.Options{})
	defer later.Close()
	_, err = later.Get(t.Context(), "k", backend.GetOptions{})
	wantErr(t, "Get", err, backend.ErrNewerSchema)
	_, err = later.Put(t.Context(), "k", nil, backend.PutOptions{})
	wantErr(t, "Put", err, backend.ErrNewerSchema)
}

// Damaged bookkeeping is an error that says so, of the key that it concerns.
func TestDamagedRecord(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	for i := range 100 { // more than are gathered
		put(t, s, fmt.Sprintf("k%03d", i), "v", backend.PutOptions{})
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("kv=kv/records")).Put([]byte("k001"), []byte("short"))
	})
	if err != nil {
		t.Fatal(err)
	}
	again := boltkv.New(db, boltkv.Options{}) // with a cache of its own
	defer again.Close()
	_, err = again.Get(t.Context(), "k001", backend.GetOptions{})
	wantErr(t, "Get", err, backend.ErrCorrupt)
	get(t, again, "k002")
	_, err = again.Put(t.Context(), "k001", nil, backend.PutOptions{})
	wantErr(t, "Put", err, backend.ErrCorrupt)
	put(t, again, "k002", "w", backend.PutOptions{})
}

// R39: options that contradict are the error of every call.
func TestBadOptions(t *testing.T) {
	for _, o := range []boltkv.Options{
		{Root: "/a"}, {Root: "a//b"}, {Root: "a/"}, {Root: "a", Meta: "a"}, {Root: "a", Meta: "a/b"}, {Root: "a/b", Meta: "a"},
	} {
		s, _ := open(t, o)
		_, err := s.Get(t.Context(), "k", backend.GetOptions{})
		wantErr(t, fmt.Sprintf("Get with %+v", o), err, backend.ErrInvalid)
		_, err = s.Put(t.Context(), "k", nil, backend.PutOptions{})
		wantErr(t, fmt.Sprintf("Put with %+v", o), err, backend.ErrInvalid)
		_, err = s.Watch(t.Context(), "", backend.WatchOptions{})
		wantErr(t, fmt.Sprintf("Watch with %+v", o), err, backend.ErrInvalid)
	}
}

func TestReadOnlyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db := openDB(t, path)
	s := boltkv.New(db, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	put(t, s, "old", "v", backend.PutOptions{TTL: time.Second})
	if err := foreignTo(db).Put(t.Context(), "theirs", nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), db.Close(), os.Chmod(path, 0o400)); err != nil {
		t.Fatal(err)
	}
	<-time.After(1100 * time.Millisecond) // the TTL itself
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	s = boltkv.New(db, boltkv.Options{})
	defer func() {
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}()
	if got := list(t, s, ""); got != "k=v theirs=" {
		t.Errorf("listed %q", got)
	}
	if e := get(t, s, "theirs"); e.Revision == 0 {
		t.Errorf("got %+v", e)
	}
	_, err = s.Get(t.Context(), "old", backend.GetOptions{})
	wantErr(t, "Get of an expired key", err, backend.ErrNotFound)
	_, err = s.Put(t.Context(), "k", nil, backend.PutOptions{})
	wantErr(t, "Put", err, backend.ErrPermission)
	w, err := s.Watch(t.Context(), "", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := w.Next(t.Context()); err != nil || ev.Key != "k" {
		t.Errorf("event %+v, %v", ev, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// The database is the caller's, and was closed too early.
func TestDatabaseClosedUnderneath(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "kv.db"))
	s := boltkv.New(db, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	get(t, s, "k") // leaves a view open, for a moment
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), "k", backend.GetOptions{})
	wantErr(t, "Get", err, backend.ErrClosed)
	_, err = s.Put(t.Context(), "k", nil, backend.PutOptions{})
	wantErr(t, "Put", err, backend.ErrClosed)
	for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		wantErr(t, "List", err, backend.ErrClosed)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Without statistics nothing tells when a shared view is old, so none is.
func TestNoStatistics(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{NoStatistics: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	s := boltkv.New(db, boltkv.Options{})
	f := foreignTo(db)
	for i := range 20 {
		put(t, s, "k", fmt.Sprint(i), backend.PutOptions{})
		if e := get(t, s, "k"); string(e.Value) != fmt.Sprint(i) {
			t.Errorf("read %s after writing %d", e.Value, i)
		}
		if err := f.Put(t.Context(), "k", fmt.Appendf(nil, "theirs %d", i)); err != nil {
			t.Fatal(err)
		}
		if e := get(t, s, "k"); string(e.Value) != fmt.Sprint("theirs ", i) {
			t.Errorf("read %s after another wrote %d", e.Value, i)
		}
	}
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Error(err)
	}
}

// A file that is only read shares views from the start.
func TestViewsAreShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db := openDB(t, path)
	s := boltkv.New(db, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, path)
	s = boltkv.New(db, boltkv.Options{})
	for range 20_000 {
		get(t, s, "k")
	}
	if n := db.Stats().TxN; n > 10_000 {
		t.Errorf("20,000 reads began %d transactions", n)
	}
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Error(err)
	}
}
