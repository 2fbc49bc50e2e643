package boltkv_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
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

// R14: keys list in bounded memory, also when another program wrote them and
// they have to be adopted first. The bound is a third of what is listed; a
// million keys are listed by a test in integration.
func TestListMemory(t *testing.T) {
	const n, bound = 60_000, 12 << 20
	value := bytes.Repeat([]byte("v"), 512)
	db := openDB(t, filepath.Join(t.TempDir(), "kv.db"))
	db.NoSync = true // what is measured is memory
	defer db.Close()
	for i := 0; i < n; i += 10_000 {
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("kv"))
			if err != nil {
				return err
			}
			b.FillPercent = 1
			for j := i; j < i+10_000 && err == nil; j++ {
				err = b.Put(fmt.Appendf(nil, "key/%07d", j), value)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s := boltkv.New(db, boltkv.Options{})
	defer s.Close()
	for _, round := range []string{"adopting", "adopted"} {
		before, most, seen := heap(), uint64(0), 0
		for e, err := range s.List(t.Context(), "", backend.ListOptions{}) {
			if err != nil || len(e.Value) != len(value) {
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
