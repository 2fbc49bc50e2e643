package boltkv_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/internal/testserver"
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
// they have to be adopted first. The bound is a third of what is listed.
func TestListMemory(t *testing.T) { listMemory(t, 60_000, 512, 12<<20) }

// R14: so do a million.
func TestListOfAMillion(t *testing.T) {
	required, err := testserver.Required("bolt")
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() || !required {
		t.Skip("writes a million keys, which make test takes the time for")
	}
	listMemory(t, 1_000_000, 64, 64<<20)
}

// listMemory lists n values of a size, and wants the heap to grow by no more
// than bound.
func listMemory(t *testing.T, n, size int, bound uint64) {
	value := bytes.Repeat([]byte("v"), size)
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
	s := kv.New(boltkv.New(db, boltkv.Options{}))
	defer s.Close()
	for _, round := range []string{"adopting", "adopted"} {
		before, most, seen := heap(), uint64(0), 0
		for e, err := range s.List(t.Context(), "") {
			if err != nil || len(e.Value) != size {
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
