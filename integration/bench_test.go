package integration

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// benchValue is what the benchmarks write.
var benchValue = bytes.Repeat([]byte("v"), 256)

// against times raw and ours in turns, which of them first changing, so that whatever else the machine does meets both.
// It reports the ratio of the medians as x-raw. The benchmark's own ns/op is of the two together.
func against(b *testing.B, raw, ours func(i int) error) {
	b.Helper()
	times := [2][]time.Duration{}
	calls := [2]func(int) error{raw, ours}
	for i := range 5 { // connections, scripts and leases come first
		for _, call := range calls {
			if err := call(i); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ResetTimer()
	for i := range b.N {
		for turn := range 2 {
			which := (i + turn) % 2
			start := time.Now()
			if err := calls[which](i); err != nil {
				b.Fatal(err)
			}
			times[which] = append(times[which], time.Since(start))
		}
	}
	b.StopTimer()
	for which := range times {
		slices.Sort(times[which])
	}
	median := func(which int) float64 { return float64(times[which][b.N/2]) }
	b.ReportMetric(median(0), "raw-ns")
	b.ReportMetric(median(1), "kv-ns")
	b.ReportMetric(median(1)/median(0), "x-raw")
	i := 0
	b.ReportMetric(testing.AllocsPerRun(20, func() { i++; _ = raw(i) }), "raw-allocs")
	b.ReportMetric(testing.AllocsPerRun(20, func() { i++; _ = ours(i) }), "kv-allocs")
}

// oursAgainst are the calls of this library that every store's raw client is compared with.
func getOf(s *kv.Store, opts ...kv.GetOption) func(int) error {
	return func(int) error { _, err := s.Get(context.Background(), "key", opts...); return err }
}

func putOf(s *kv.Store, opts ...kv.WriteOption) func(int) error {
	return func(int) error { _, err := s.Put(context.Background(), "key", benchValue, opts...); return err }
}

func listOf(s *kv.Store, want int) func(int) error {
	return func(int) error {
		n := 0
		for _, err := range s.List(context.Background(), "many") {
			if err != nil {
				return err
			}
			n++
		}
		if n != want {
			return fmt.Errorf("%d entries, want %d", n, want)
		}
		return nil
	}
}

// fill puts n keys below many, some at a time.
func fill(b *testing.B, s *kv.Store, n int) {
	b.Helper()
	for i := 0; i < n; i += 50 {
		tx := s.Txn()
		for j := i; j < min(i+50, n); j++ {
			tx.Put(fmt.Sprintf("many/%06d", j), benchValue)
		}
		if _, err := tx.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBolt compares with bbolt in another file: a get is one transaction that copies the value out.
func BenchmarkBolt(b *testing.B) {
	open := func(name string) *bbolt.DB {
		db, err := bbolt.Open(filepath.Join(b.TempDir(), name), 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { db.Close() })
		return db
	}
	db, bucket := open("raw.db"), []byte("kv")
	s := kv.New(boltkv.New(open("kv.db"), boltkv.Options{}))
	b.Cleanup(func() { s.Close() })
	put := func(int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			bk, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			return bk.Put([]byte("key"), benchValue)
		})
	}
	b.Run("put", func(b *testing.B) { against(b, put, putOf(s)) })
	b.Run("get", func(b *testing.B) {
		var got []byte
		against(b, func(int) error {
			return db.View(func(tx *bbolt.Tx) error {
				got = bytes.Clone(tx.Bucket(bucket).Get([]byte("key")))
				return nil
			})
		}, getOf(s))
		_ = got
	})
	b.Run("list of 10000", func(b *testing.B) {
		const n = 10_000
		fill(b, s, n)
		if err := db.Update(func(tx *bbolt.Tx) error {
			for i := range n {
				if err := tx.Bucket(bucket).Put(fmt.Appendf(nil, "many/%06d", i), benchValue); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		against(b, func(int) error {
			return db.View(func(tx *bbolt.Tx) error {
				c := tx.Bucket(bucket).Cursor()
				var got []byte
				var name string
				for k, v := c.Seek([]byte("many/")); bytes.HasPrefix(k, []byte("many/")); k, v = c.Next() {
					name, got = string(k), bytes.Clone(v)
				}
				_, _ = name, got
				return nil
			})
		}, listOf(s, n))
	})
}

// BenchmarkEtcd compares with linearizable reads, and puts that are one request.
func BenchmarkEtcd(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Etcd})
	c, err := clientv3.New(clientv3.Config{Endpoints: srv.Addrs(), DialTimeout: 5 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	root, ctx := testserver.UniqueName(b), context.Background()
	s := kv.New(etcdkv.New(c, etcdkv.Options{Root: root}))
	b.Cleanup(func() { s.Close() })
	raw, value := root+"-raw/key", string(benchValue)
	b.Run("put", func(b *testing.B) {
		against(b, func(int) error { _, err := c.Put(ctx, raw, value); return err }, putOf(s))
	})
	b.Run("get", func(b *testing.B) {
		against(b, func(int) error { _, err := c.Get(ctx, raw); return err }, getOf(s))
	})
	b.Run("put with a TTL", func(b *testing.B) {
		lease, err := c.Grant(ctx, 3600)
		if err != nil {
			b.Fatal(err)
		}
		against(b, func(int) error { _, err := c.Put(ctx, raw, value, clientv3.WithLease(lease.ID)); return err },
			putOf(s, kv.TTL(time.Hour)))
	})
	b.Run("list of 10000", func(b *testing.B) {
		const n = 10_000
		fill(b, s, n)
		against(b, func(int) error { // ordered and complete, as ours
			_, err := c.Get(ctx, root+"/many/", clientv3.WithPrefix())
			return err
		}, listOf(s, n))
	})
}

// BenchmarkRedis compares with bare GET and SET, which know of no revisions.
func BenchmarkRedis(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Redis})
	c := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0]})
	b.Cleanup(func() { c.Close() })
	root, ctx := testserver.UniqueName(b), context.Background()
	s := kv.New(rediskv.New(c, rediskv.Options{Root: root}))
	b.Cleanup(func() { s.Close() })
	b.Run("put", func(b *testing.B) {
		against(b, func(int) error { return c.Set(ctx, root+"-raw", benchValue, 0).Err() }, putOf(s))
	})
	b.Run("get", func(b *testing.B) {
		against(b, func(int) error { return c.Get(ctx, root+"-raw").Err() }, getOf(s))
	})
}
