package boltkv_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R10: no revision comes twice, whatever happens in between.
func TestRevisionsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	var last backend.Revision
	var fence uint64
	for i := range 5 {
		db := openDB(t, path)
		s := boltkv.New(db, boltkv.Options{})
		if i > 0 {
			if e := get(t, s, "kept"); e.Revision == 0 || e.Revision > last {
				t.Errorf("round %d: %+v, last revision %d", i, e, last)
			}
		}
		for range 3 {
			e := put(t, s, "k", "v", backend.PutOptions{If: backend.Absent})
			if e.Revision <= last {
				t.Fatalf("round %d: revision %d after %d", i, e.Revision, last)
			}
			last = e.Revision
			if err := s.Delete(t.Context(), "k", backend.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		last = put(t, s, "kept", "v", backend.PutOptions{}).Revision
		c, err := s.Contend(t.Context(), "lock", backend.ContendOptions{Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if c.Token() <= fence { // R31
			t.Errorf("round %d: token %d after %d", i, c.Token(), fence)
		}
		fence = c.Token()
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// R24, R28: a key whose time came while the file was closed is gone, with an
// event for who resumes.
func TestExpiryWhileClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db := openDB(t, path)
	s := boltkv.New(db, boltkv.Options{History: &boltkv.History{}})
	w, err := s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", backend.PutOptions{TTL: time.Second})
	put(t, s, "stays", "v", backend.PutOptions{TTL: time.Hour})
	var token backend.Token
	for range 2 {
		ev, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		token = ev.Token
	}
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	<-time.After(1100 * time.Millisecond) // the TTL itself, on the wall clock
	db = openDB(t, path)
	s = boltkv.New(db, boltkv.Options{History: &boltkv.History{}})
	defer func() {
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}()
	_, err = s.Get(t.Context(), "k", backend.GetOptions{})
	wantErr(t, "Get", err, backend.ErrNotFound)
	if got := list(t, s, ""); got != "stays=v" {
		t.Errorf("listed %q", got)
	}
	w, err = s.Watch(t.Context(), "", backend.WatchOptions{Resume: token, Prev: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ev, err := w.Next(t.Context())
	if err != nil || ev.Kind != backend.Deleted || ev.Key != "k" || ev.Prev == nil || string(ev.Prev.Value) != "v" {
		t.Errorf("event %+v, %v", ev, err)
	}
}

// R10, R21: a token of after the backup is told from one of before.
func TestRestoredBackup(t *testing.T) {
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "kv.db"), filepath.Join(dir, "backup.db")
	o := boltkv.Options{History: &boltkv.History{}}
	use := func(path string, f func(s *boltkv.Store, db *bbolt.DB)) {
		db := openDB(t, path)
		s := boltkv.New(db, o)
		f(s, db)
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	token := func(s *boltkv.Store) backend.Token {
		w, err := s.Watch(t.Context(), "", backend.WatchOptions{Snapshot: true})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for {
			ev, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind == backend.Synced {
				return ev.Token
			}
		}
	}
	var before, after backend.Token
	use(path, func(s *boltkv.Store, db *bbolt.DB) {
		put(t, s, "k", "1", backend.PutOptions{})
		before = token(s)
		if err := db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(backup, 0o600) }); err != nil {
			t.Fatal(err)
		}
	})
	use(path, func(s *boltkv.Store, _ *bbolt.DB) {
		put(t, s, "k", "2", backend.PutOptions{})
		after = token(s)
	})
	use(backup, func(s *boltkv.Store, _ *bbolt.DB) {
		for range 10 { // beyond the revision of the token
			put(t, s, "k", "other", backend.PutOptions{})
		}
		_, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: after})
		wantErr(t, "token of a future that never was", err, backend.ErrHistoryLost)
		w, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: before})
		if err != nil {
			t.Fatalf("token of before the backup: %v", err)
		}
		defer w.Close()
		if ev, err := w.Next(t.Context()); err != nil || string(ev.Value) != "other" {
			t.Errorf("event %+v, %v", ev, err)
		}
	})
}

// R21: the history keeps to its bounds, and says what it lost.
func TestHistoryRetention(t *testing.T) {
	for name, h := range map[string]boltkv.History{
		"changes": {MaxChanges: 10},
		"bytes":   {MaxBytes: 2000},
		"age":     {MaxAge: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kv.db")
			var tokens []backend.Token
			use := func(f func(s *boltkv.Store)) {
				db := openDB(t, path)
				s := boltkv.New(db, boltkv.Options{History: &h})
				f(s)
				if err := errors.Join(s.Close(), db.Close()); err != nil {
					t.Fatal(err)
				}
			}
			use(func(s *boltkv.Store) {
				w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 50 {
					if i == 40 && h.MaxAge > 0 {
						<-time.After(2 * h.MaxAge)
					}
					put(t, s, "k", strings.Repeat("v", 80), backend.PutOptions{})
					ev, err := w.Next(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					tokens = append(tokens, ev.Token)
				}
			})
			use(func(s *boltkv.Store) {
				_, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: tokens[0]})
				wantErr(t, "the first token", err, backend.ErrHistoryLost)
				last := len(tokens) - 1
				if h.MaxAge > 0 {
					return // the machine may have been slow
				}
				w, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: tokens[last-3]})
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				for range 3 {
					if _, err := w.Next(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// R21: what was written while no history was kept is not passed over.
func TestHistoryWithHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	var token backend.Token
	for i, h := range []*boltkv.History{{}, nil, {}} {
		db := openDB(t, path)
		s := boltkv.New(db, boltkv.Options{History: h})
		if i == 0 {
			w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "k", "v", backend.PutOptions{})
			ev, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			token = ev.Token
		}
		put(t, s, "k", fmt.Sprint(i), backend.PutOptions{})
		if i == 2 {
			_, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: token})
			wantErr(t, "resuming across the hole", err, backend.ErrHistoryLost)
		}
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
