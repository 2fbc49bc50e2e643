package boltkv_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

const benchKeys = 10_000

func benchKey(i int) string { return fmt.Sprintf("bench/%06d", i%benchKeys) }

// benchDB is a file with benchKeys keys of 256 bytes, written by the library,
// so that raw reads and writes of the same bucket are a fair comparison.
func benchDB(b *testing.B) (*bbolt.DB, *boltkv.Store) {
	db := openDB(b, filepath.Join(b.TempDir(), "kv.db"))
	s := boltkv.New(db, boltkv.Options{})
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	value := bytes.Repeat([]byte("v"), 256)
	for i := 0; i < benchKeys; i += backend.MaxTxnOps {
		var t backend.Txn
		for j := i; j < min(i+backend.MaxTxnOps, benchKeys); j++ {
			t.Writes = append(t.Writes, backend.Write{Key: benchKey(j), Value: value})
		}
		if _, err := s.Commit(context.Background(), t); err != nil {
			b.Fatal(err)
		}
	}
	return db, s
}

func rawGet(b *testing.B, db *bbolt.DB, key []byte) {
	var value []byte
	err := db.View(func(tx *bbolt.Tx) error {
		value = bytes.Clone(tx.Bucket([]byte("kv")).Get(key))
		return nil
	})
	if err != nil || len(value) != 256 {
		b.Fatal(len(value), err)
	}
}

func rawPut(b *testing.B, db *bbolt.DB, key, value []byte) {
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("raw")).Put(key, value)
	})
	if err != nil {
		b.Fatal(err)
	}
}

// compare runs raw and ours in turns, block operations at a time, and reports
// the median of each in ns and their ratio. Turns and medians, because the
// machine and its disk drift by more than what is between the two.
func compare(b *testing.B, block int, raw, ours func(i int)) {
	took := func(f func(i int), i int) float64 {
		start := time.Now()
		for j := range block {
			f(i + j)
		}
		return float64(time.Since(start)) / float64(block)
	}
	var r, o []float64
	for i := 0; b.Loop(); i += block {
		if i/block%2 == 0 {
			r = append(r, took(raw, i))
			o = append(o, took(ours, i))
		} else {
			o = append(o, took(ours, i))
			r = append(r, took(raw, i))
		}
	}
	slices.Sort(r)
	slices.Sort(o)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(r[len(r)/2], "raw-ns/op")
	b.ReportMetric(o[len(o)/2], "kv-ns/op")
	b.ReportMetric(o[len(o)/2]/r[len(r)/2], "kv/raw")
	b.ReportMetric(mean(o)/mean(r), "mean-kv/raw")
}

// mean leaves out the slowest tenth, in which somebody else had the machine.
func mean(sorted []float64) (m float64) {
	n := len(sorted) - len(sorted)/10
	for _, v := range sorted[:n] {
		m += v / float64(n)
	}
	return m
}

// BenchmarkGet compares a View with one Get, and a copy of the value, with
// the library's Get.
func BenchmarkGet(b *testing.B) {
	db, d := benchDB(b)
	s := kv.New(d.Peer())
	b.Cleanup(func() { s.Close() })
	names := make([]string, benchKeys)
	native := make([][]byte, benchKeys)
	for i := range names {
		names[i], native[i] = benchKey(i), []byte(benchKey(i))
	}
	raw := func(i int) { rawGet(b, db, native[i*7919%benchKeys]) }
	ours := func(ctx context.Context) func(i int) {
		return func(i int) {
			if e, err := s.Get(ctx, names[i*7919%benchKeys]); err != nil || len(e.Value) != 256 {
				b.Fatal(e, err)
			}
		}
	}
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			raw(i)
		}
	})
	b.Run("kv", func(b *testing.B) {
		get := ours(context.Background())
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			get(i)
		}
	})
	b.Run("compare", func(b *testing.B) { compare(b, 100, raw, ours(context.Background())) })
	b.Run("compare-cancellable", func(b *testing.B) { compare(b, 100, raw, ours(b.Context())) })
	b.Run("compare-alternating-with-writes", func(b *testing.B) { // each view serves ten reads
		write := func(i int) {
			if i%10 == 0 {
				if _, err := s.Put(b.Context(), "other", nil); err != nil {
					b.Fatal(err)
				}
			}
		}
		db.NoSync = true
		defer func() { db.NoSync = false }()
		get := ours(context.Background())
		compare(b, 100, func(i int) { write(i); raw(i) }, func(i int) { write(i); get(i) })
	})
	b.Run("compare-parallel", func(b *testing.B) {
		get := ours(context.Background())
		both := func(f func(int)) func(int) {
			return func(i int) {
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for j := range 100 {
							f(i + j)
						}
					})
				}
				wg.Wait()
			}
		}
		compare(b, 1, both(raw), both(get))
	})
}

// BenchmarkPut compares an Update with one Put with the library's Put.
func BenchmarkPut(b *testing.B) {
	db, d := benchDB(b)
	s := kv.New(d.Peer())
	b.Cleanup(func() { s.Close() })
	value := bytes.Repeat([]byte("w"), 256)
	err := db.Update(func(tx *bbolt.Tx) error {
		raw, err := tx.CreateBucket([]byte("raw"))
		for i := range benchKeys {
			if err == nil {
				err = raw.Put([]byte(benchKey(i)), value)
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	raw := func(i int) { rawPut(b, db, []byte(benchKey(i*7919)), value) }
	oursWith := func(ctx context.Context) func(i int) {
		return func(i int) {
			if _, err := s.Put(ctx, benchKey(i*7919), value); err != nil {
				b.Fatal(err)
			}
		}
	}
	ours := oursWith(context.Background())
	b.Run("raw", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			raw(i)
		}
	})
	b.Run("kv", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			ours(i)
		}
	})
	b.Run("compare", func(b *testing.B) { compare(b, 1, raw, ours) })
	// With a context that can end, on a database that others may write to, a
	// goroutine commits.
	b.Run("compare-cancellable", func(b *testing.B) { compare(b, 1, raw, oursWith(b.Context())) })
	b.Run("compare-nosync", func(b *testing.B) {
		db.NoSync = true
		defer func() { db.NoSync = false }()
		compare(b, 1, raw, ours)
	})
	b.Run("kv-64-writers", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				ours(i)
			}
		})
	})
	b.Run("batch-64-writers", func(b *testing.B) { // bbolt's own grouping, which waits up to 10 ms
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				err := db.Batch(func(tx *bbolt.Tx) error {
					return tx.Bucket([]byte("raw")).Put([]byte(benchKey(i*7919)), value)
				})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkList compares a cursor over 10,000 keys, with copies, with List.
func BenchmarkList(b *testing.B) {
	db, d := benchDB(b)
	raw := func(int) {
		n := 0
		err := db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("kv")).ForEach(func(k, v []byte) error {
				if _, value := string(k), bytes.Clone(v); len(value) == 256 {
					n++
				}
				return nil
			})
		})
		if err != nil || n != benchKeys {
			b.Fatal(n, err)
		}
	}
	ours := func(int) {
		n := 0
		for e, err := range d.List(context.Background(), "", backend.ListOptions{}) {
			if err != nil || len(e.Value) != 256 {
				b.Fatal(e, err)
			}
			n++
		}
		if n != benchKeys {
			b.Fatal(n)
		}
	}
	b.Run("compare", func(b *testing.B) { compare(b, 1, raw, ours) })
}
