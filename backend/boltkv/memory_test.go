package boltkv_test

import (
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

// R14: a million keys list in bounded memory, also when another program wrote
// them and they have to be adopted first.
func TestListMillion(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 50_000
	}
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
				err = b.Put(fmt.Appendf(nil, "key/%07d", j), []byte("a value of some length"))
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
		for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if seen++; seen%(n/20) == 0 {
				most = max(most, heap())
			}
		}
		if seen != n {
			t.Errorf("%s: listed %d of %d", round, seen, n)
		}
		t.Logf("%s: the heap grew by %.1f MiB", round, float64(most)/(1<<20)-float64(before)/(1<<20))
		if most > before+64<<20 {
			t.Errorf("%s: the heap grew from %d to %d bytes", round, before, most)
		}
	}
}
