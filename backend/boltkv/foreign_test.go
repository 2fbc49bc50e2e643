package boltkv_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R7: the value is what bbolt's own tools show; R6: nothing else is in its
// bucket, and the bookkeeping can be elsewhere.
func TestValuesAreRaw(t *testing.T) {
	s, db := open(t, boltkv.Options{Root: "app/config", Meta: "books/kv"})
	put(t, s, "a/b", "value", backend.PutOptions{TTL: time.Hour})
	err := db.View(func(tx *bbolt.Tx) error {
		n := 0
		err := tx.Bucket([]byte("app")).Bucket([]byte("config")).ForEach(func(k, v []byte) error {
			if n++; string(k) != "a/b" || string(v) != "value" {
				t.Errorf("%q = %q", k, v)
			}
			return nil
		})
		if n != 1 || tx.Bucket([]byte("books")).Bucket([]byte("kv")) == nil {
			t.Errorf("%d keys", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// R5, R26: values of any length that another program wrote are read, listed,
// given a revision and an event.
func TestForeignValues(t *testing.T) {
	var logged bytes.Buffer
	s, db := open(t, boltkv.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	err := db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("kv"))
		for n := range 40 {
			if err == nil {
				err = b.Put(fmt.Appendf(nil, "k/%02d", n), bytes.Repeat([]byte{'x'}, n))
			}
		}
		for _, name := range []string{"a//b", "/a", "a/", "k/\xff", "\x00"} {
			if err == nil {
				err = b.Put([]byte(name), []byte("no key"))
			}
		}
		if err == nil {
			_, err = b.CreateBucket([]byte("k/bucket"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), "k", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	seen := map[backend.Revision]bool{}
	n := 0
	for e, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Key != fmt.Sprintf("k/%02d", n) || len(e.Value) != n || e.Revision == 0 || seen[e.Revision] {
			t.Errorf("entry %d: %+v", n, e)
		}
		seen[e.Revision] = true
		n++
	}
	if n != 40 {
		t.Errorf("%d keys", n)
	}
	for n := range 40 {
		ev, err := w.Next(t.Context())
		if err != nil || ev.Kind != backend.Created || ev.Key != fmt.Sprintf("k/%02d", n) {
			t.Fatalf("event %d: %+v, %v", n, ev, err)
		}
	}
	if s.ForeignNames() == 0 || strings.Count(logged.String(), "no keys") != 1 {
		t.Errorf("skipped %d, logged %q", s.ForeignNames(), &logged)
	}
	_, err = s.Put(t.Context(), "k/bucket", nil, backend.PutOptions{})
	wantErr(t, "Put over a nested bucket", err, backend.ErrInvalid)
	put(t, s, "k/after", "v", backend.PutOptions{}) // the other writes go on
	if n, err := s.DeletePrefix(t.Context(), ""); err != nil || n != 41 {
		t.Errorf("DeletePrefix: %d, %v", n, err)
	}
}

// R11: a foreign write in between is detected, and so is a foreign delete.
func TestForeignWriteInBetween(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	f := foreignTo(db)
	e := put(t, s, "k", "ours", backend.PutOptions{TTL: time.Hour})
	get(t, s, "k") // the cache has it
	if err := f.Put(t.Context(), "k", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
	wantErr(t, "Put at the revision before", err, backend.ErrConflict)
	got := get(t, s, "k")
	if string(got.Value) != "theirs" || got.Revision <= e.Revision || !got.Expires.IsZero() || got.Created != e.Created {
		t.Errorf("got %+v", got)
	}
	if err := f.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(t.Context(), "k", backend.GetOptions{})
	wantErr(t, "Get", err, backend.ErrNotFound)
	again := put(t, s, "k", "ours", backend.PutOptions{If: backend.Absent})
	if again.Revision <= got.Revision || again.Created != again.Revision {
		t.Errorf("recreated: %+v after %+v", again, got)
	}
}

// Several roots live in one file without seeing each other.
func TestRootsInOneFile(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "kv.db"))
	defer db.Close()
	for i, root := range []string{"a", "b", "a=kv2", "c/a", "c/b"} {
		s := boltkv.New(db, boltkv.Options{Root: root})
		put(t, s, "k", fmt.Sprint(i), backend.PutOptions{})
		defer func() {
			if got := list(t, s, ""); got != fmt.Sprint("k=", i) {
				t.Errorf("root %q: %q", root, got)
			}
			s.Close()
		}()
	}
}
