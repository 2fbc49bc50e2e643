package boltkv_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// R5, R10, R26: whatever this library and others write in turn, a list tells
// what is in the bucket, with a new revision for what is new, and the old one
// for what is not: also where it does without checksums, because it believes
// that nobody else has written.
func TestListsNoticeOthers(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	db.NoSync = true
	f := foreignTo(db)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	known := map[string]backend.Entry{}
	ctx := t.Context()
	put(t, s, "d/other", "", backend.PutOptions{})
	check := func(prefix string, o backend.ListOptions) {
		inFile := map[string]string{}
		if err := db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("kv")).ForEach(func(k, v []byte) error {
				if strings.HasPrefix(string(k), prefix+"/") {
					inFile[string(k)] = string(v)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		last := ""
		for e, err := range s.List(ctx, prefix, o) {
			if err != nil {
				t.Fatal(err)
			}
			was, value := known[e.Key], inFile[e.Key]
			if _, ok := inFile[e.Key]; !ok || e.Key <= last || !o.KeysOnly && string(e.Value) != value {
				t.Fatalf("%s after %s is %q, in the file %q", e.Key, last, e.Value, value)
			}
			if old := was.Revision != 0 && string(was.Value) == value; was.Revision > e.Revision || old != (was.Revision == e.Revision) {
				t.Fatalf("%s was %q at %d, and is %q at %d", e.Key, was.Value, was.Revision, value, e.Revision)
			}
			last, e.Value = e.Key, []byte(value)
			known[e.Key] = e
			delete(inFile, e.Key)
		}
		if len(inFile) > 0 {
			t.Fatalf("not listed: %q", inFile)
		}
	}
	for i := range 4000 {
		key := fmt.Sprintf("%c/%02d", 'a'+rng.IntN(3), rng.IntN(60))
		value := fmt.Sprint("value", i) // never one that was there before
		switch rng.IntN(12) {
		case 0:
			if err := f.Put(ctx, key, []byte(value)); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := f.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Adopt(ctx, key[:1]); err != nil { // or a write of the old value would look like none
				t.Fatal(err)
			}
			delete(known, key)
		case 2, 3, 4:
			check(key[:1], backend.ListOptions{KeysOnly: rng.IntN(2) == 0})
		default:
			e := put(t, s, key, value, backend.PutOptions{})
			e.Value = []byte(value)
			known[key] = e
		}
	}
}

// Another program writes between the pages of a list, behind it and ahead.
func TestListNoticesOthersMeanwhile(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	db.NoSync = true
	f := foreignTo(db)
	const n = 3000
	for i := 0; i < n; i += 60 {
		var txn backend.Txn
		for j := i; j < i+60; j++ {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("k/%05d", j), Value: []byte("old")})
		}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	var behind, ahead string
	before := map[string]backend.Revision{}
	look := func(theirs string, at int, then func()) {
		t.Helper()
		seen := 0
		for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			changed := string(e.Value) == theirs
			if e.Key == ahead && !changed || changed == (e.Revision == before[e.Key]) {
				t.Errorf("%s is %q at %d, and was at %d", e.Key, e.Value, e.Revision, before[e.Key])
			}
			if !changed {
				before[e.Key] = e.Revision
			}
			if seen++; seen == at {
				then()
			}
		}
	}
	for e, err := range s.List(t.Context(), "k", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		before[e.Key] = e.Revision
	}
	for round := range 3 {
		theirs := fmt.Sprint("theirs", round)
		look(theirs, 1500, func() {
			behind, ahead = fmt.Sprintf("k/%05d", 100+round), fmt.Sprintf("k/%05d", n-1-round)
			for _, key := range []string{behind, ahead} {
				if err := f.Put(t.Context(), key, []byte(theirs)); err != nil {
					t.Fatal(err)
				}
			}
			put(t, s, "other", "", backend.PutOptions{})
		})
		look(theirs, 0, nil)
		for e, err := range s.List(t.Context(), "k", backend.ListOptions{KeysOnly: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Key == behind && e.Revision == before[behind] {
				t.Errorf("%s has been changed, and is at %d as before", behind, e.Revision)
			}
			before[e.Key] = e.Revision
		}
	}
}

// Another program writes over a key that this library has written since a list
// began, before the list comes to it: the list, which shows what was there when
// it began, has not compared what is there.
func TestListNoticesOthersBeforeItsFirstPage(t *testing.T) {
	s, db := open(t, boltkv.Options{})
	db.NoSync = true
	f := foreignTo(db)
	put(t, s, "d/k", "old", backend.PutOptions{})
	w, err := s.Watch(t.Context(), "d", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ours := put(t, s, "d/k", "ours", backend.PutOptions{})
	if err := f.Put(t.Context(), "d/k", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	for {
		ev, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind == backend.Synced {
			break
		}
		if string(ev.Value) != "old" {
			t.Errorf("%s is %q in the snapshot", ev.Entry.Key, ev.Value)
		}
	}
	put(t, s, "d/other", "", backend.PutOptions{})
	for e, err := range s.List(t.Context(), "d", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Key == "d/k" && (string(e.Value) != "theirs" || e.Revision <= ours.Revision) {
			t.Errorf("%s is %q at %d, and was %q at %d", e.Key, e.Value, e.Revision, "ours", ours.Revision)
		}
	}
}
