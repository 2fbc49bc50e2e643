package boltkv_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/boltkv/internal/conformance"
)

func openDB(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	return conformance.OpenDB(t, path)
}

// foreignTo is another program that has the database open.
func foreignTo(db *bbolt.DB) conformance.Foreign {
	return conformance.Foreign{DB: func() *bbolt.DB { return db }, Bucket: "kv"}
}

// open returns a store in a fresh file, and the file's database.
func open(t testing.TB, o boltkv.Options) (*boltkv.Store, *bbolt.DB) {
	t.Helper()
	db := openDB(t, filepath.Join(t.TempDir(), "kv.db"))
	s := boltkv.New(db, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, db
}

func put(t testing.TB, s backend.Store, key, value string, o backend.PutOptions) backend.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), o)
	if err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
	return e
}

func get(t testing.TB, s backend.Store, key string) backend.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key, backend.GetOptions{})
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return e
}

func list(t testing.TB, s backend.Store, prefix string) (found string) {
	t.Helper()
	for e, err := range s.List(t.Context(), prefix, backend.ListOptions{}) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		found += fmt.Sprintf("%s=%s ", e.Key, e.Value)
	}
	return strings.TrimSpace(found)
}

func wantErr(t testing.TB, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("%s: got error %v, want %v", what, err, w)
		}
	}
}
