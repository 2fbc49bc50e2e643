package integration

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
)

// heap is what is reachable. It takes two collections to empty a sync.Pool, in
// which bbolt keeps the pages of past commits.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// R14: a million keys in a bbolt file, which another program has written, list
// with less than 64 MiB of heap: while they are adopted, and when they were.
func TestListOfAMillionOnBolt(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a million keys")
	}
	const n, bound = 1_000_000, 64 << 20
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "kv.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.NoSync = true // what is measured is memory
	for i := 0; i < n; i += 50_000 {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("kv"))
			if err != nil {
				return err
			}
			b.FillPercent = 1
			for j := i; j < i+50_000 && err == nil; j++ {
				err = b.Put(fmt.Appendf(nil, "key/%07d", j), benchValue[:64])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s := kv.New(boltkv.New(db, boltkv.Options{}))
	defer s.Close()
	for _, round := range []string{"adopting", "adopted"} {
		before, most, seen := heap(), uint64(0), 0
		for e, err := range s.List(t.Context(), "") {
			if err != nil || len(e.Value) != 64 {
				t.Fatalf("%s: entry %d: %d bytes, %v", round, seen, len(e.Value), err)
			}
			if seen++; seen%(n/20) == 0 {
				most = max(most, heap())
			}
		}
		if seen != n {
			t.Errorf("%s: listed %d of %d", round, seen, n)
		}
		t.Logf("%s: the heap grew by %.1f MiB", round, float64(int64(most-before))/(1<<20))
		if most > before+bound {
			t.Errorf("%s: the heap grew from %d to %d bytes", round, before, most)
		}
	}
}
