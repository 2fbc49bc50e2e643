package boltkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

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
	if s.Skipped() == 0 || strings.Count(logged.String(), "no keys") != 1 {
		t.Errorf("skipped %d, logged %q", s.Skipped(), &logged)
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
	f := foreign{func() *bbolt.DB { return db }, "kv"}
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

// R16: a list is one snapshot, whatever is written while it is read, and the
// writers do not wait for it.
func TestListIsSnapshot(t *testing.T) {
	s, _ := open(t, boltkv.Options{})
	const n = 3000
	for i := 0; i < n; i += 60 {
		var txn backend.Txn
		for j := i; j < i+60; j++ {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("k/%05d", 2*j), Value: []byte("old")})
		}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	seen, round := 0, 0
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("k/%05d", 2*seen); e.Key != want || string(e.Value) != "old" {
			t.Fatalf("entry %d: %s=%s, want %s=old", seen, e.Key, e.Value, want)
		}
		if seen%100 == 0 { // in front of the list and behind it: new, changed, deleted, deleted and made again
			for _, at := range []int{10, 2000, 4000, 5500} {
				at += round * 10
				put(t, s, fmt.Sprintf("k/%05d", at+1), "new", backend.PutOptions{})
				put(t, s, fmt.Sprintf("k/%05d", at+2), "new", backend.PutOptions{})
				put(t, s, fmt.Sprintf("k/%05d", at+2), "newer", backend.PutOptions{})
				for _, k := range []int{at + 4, at + 6} {
					if err := s.Delete(t.Context(), fmt.Sprintf("k/%05d", k), backend.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				put(t, s, fmt.Sprintf("k/%05d", at+6), "again", backend.PutOptions{})
			}
			round++
		}
		seen++
	}
	if seen != n {
		t.Errorf("listed %d of %d", seen, n)
	}
}

// R19: a snapshot watch under writes is the state of one revision and every
// change after it.
func TestSnapshotWatchUnderWrites(t *testing.T) {
	s, _ := open(t, boltkv.Options{})
	for i := range 700 {
		put(t, s, fmt.Sprintf("k/%04d", i), "0", backend.PutOptions{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("k/%04d", (i*37+g*101)%800)
				if i%5 == 4 {
					_ = s.Delete(t.Context(), key, backend.DeleteOptions{})
				} else if _, err := s.Put(t.Context(), key, []byte(fmt.Sprint(g, i)), backend.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var watches []backend.Watch
	for range 5 {
		w, err := s.Watch(t.Context(), "k", backend.WatchOptions{Snapshot: true, Prev: true})
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	states := make([]map[string]backend.Entry, len(watches))
	follow := func(i int, until func(backend.Event) bool) {
		for {
			ev, err := watches[i].Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			had, ok := states[i][ev.Key]
			switch ev.Kind {
			case backend.Existing:
				if ok {
					t.Fatalf("%s twice", ev.Key)
				}
				states[i][ev.Key] = ev.Entry
			case backend.Created, backend.Updated:
				if ok != (ev.Kind == backend.Updated) || ok && (ev.Prev == nil || ev.Prev.Revision != had.Revision || string(ev.Prev.Value) != string(had.Value)) {
					t.Fatalf("%s %+v (prev %+v) over %+v", ev.Kind, ev.Entry, ev.Prev, had)
				}
				states[i][ev.Key] = ev.Entry
			case backend.Deleted:
				if !ok {
					t.Fatalf("%s deleted, but was not there", ev.Key)
				}
				delete(states[i], ev.Key)
			}
			if until(ev) {
				return
			}
		}
	}
	for i := range watches {
		states[i] = map[string]backend.Entry{}
		follow(i, func(ev backend.Event) bool { return ev.Kind == backend.Synced })
	}
	cancel()
	wg.Wait()
	now := map[string]backend.Entry{}
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		now[e.Key] = e
	}
	for i, w := range watches {
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		follow(i, func(ev backend.Event) bool { return ev.Kind == backend.Progress })
		if len(states[i]) != len(now) {
			t.Errorf("watch %d has %d keys, the store %d", i, len(states[i]), len(now))
		}
		for k, e := range now {
			if got := states[i][k]; got.Revision != e.Revision || string(got.Value) != string(e.Value) {
				t.Errorf("watch %d has %+v, the store %+v", i, got, e)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
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
			}
		})
	}
	for s.Pages() < 20_000 && !t.Failed() {
		runtime.Gosched()
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

func TestReadOnlyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db := openDB(t, path)
	s := boltkv.New(db, boltkv.Options{})
	put(t, s, "k", "v", backend.PutOptions{})
	put(t, s, "old", "v", backend.PutOptions{TTL: time.Second})
	if err := (foreign{func() *bbolt.DB { return db }, "kv"}).Put(t.Context(), "theirs", nil); err != nil {
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
