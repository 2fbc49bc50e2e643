package integration

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/watch"
)

// scale is how much of everything there is.
type scale struct {
	keys, subscribers, writers int
	writing                    time.Duration
	heap                       uint64 // what may be used beyond the mirror itself
	rate                       int    // writes a second at least on Redis
}

// scaleOf is a bounded form, unless KV_TEST_SCALE is full.
func scaleOf(tb testing.TB) scale {
	switch form := os.Getenv("KV_TEST_SCALE"); form {
	case "full":
		return scale{keys: 100_000, subscribers: 1000, writers: 64, writing: 30 * time.Second, heap: 2 << 30, rate: 5000}
	case "", "short":
		return scale{keys: 3000, subscribers: 100, writers: 16, writing: time.Second, heap: 256 << 20}
	default:
		tb.Fatalf("KV_TEST_SCALE is %q, and may be full or short", form)
		return scale{}
	}
}

// TestWatchScale has many subscribers of one mirror follow as many writes as
// bbolt and Redis take: all arrive at the store's state, in bounded memory.
func TestWatchScale(t *testing.T) {
	onScaleStores(t, t.Run, func(t *testing.T, s *kv.Store, sc scale) {
		for _, f := range atScale(t, s, sc) {
			t.Logf("%12.1f %s", f.value, f.unit)
			if f.unit == "writes/s" && f.value < float64(sc.rate) {
				t.Errorf("want %d writes a second", sc.rate)
			}
		}
	})
}

// BenchmarkWatchScale reports the figures of TestWatchScale, and judges none:
// they say little of a machine that does something else. They are of the whole,
// whatever b.N is: use -benchtime 1x, and KV_TEST_SCALE=full.
func BenchmarkWatchScale(b *testing.B) {
	onScaleStores(b, b.Run, func(b *testing.B, s *kv.Store, sc scale) {
		for _, f := range atScale(b, s, sc) {
			b.ReportMetric(f.value, f.unit)
		}
	})
}

func onScaleStores[T testing.TB](tb T, run func(string, func(T)) bool, f func(T, *kv.Store, scale)) {
	sc := scaleOf(tb)
	run("bolt", func(tb T) {
		db, err := bbolt.Open(filepath.Join(tb.TempDir(), "kv.db"), 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			tb.Fatal(err)
		}
		defer db.Close()
		s := kv.New(boltkv.New(db, boltkv.Options{}))
		defer s.Close()
		sc := sc
		sc.rate = 0 // what its disk does
		f(tb, s, sc)
	})
	run("redis", func(tb T) {
		srv := servers.Shared(tb, testserver.Spec{Store: testserver.Redis})
		c := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0], MaxRetries: -1})
		defer c.Close()
		s := kv.New(rediskv.New(c, rediskv.Options{Root: testserver.UniqueName(tb)}))
		defer s.Close()
		f(tb, s, sc)
	})
}

type figure struct {
	value float64
	unit  string
}

func atScale(tb testing.TB, s *kv.Store, sc scale) (figures []figure) {
	report := func(value float64, unit string) { figures = append(figures, figure{value, unit}) }
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	src := kv.NewTyped(s, codec.JSON[int](), "scale")
	writeKeys(tb, ctx, s, src, sc)

	begin := time.Now()
	m, err := watch.NewMirror(ctx, src)
	if err != nil {
		tb.Fatal(err)
	}
	defer m.Close()
	if m.Len() != sc.keys {
		tb.Fatalf("the mirror has %d of %d keys", m.Len(), sc.keys)
	}
	report(time.Since(begin).Seconds(), "s-mirror-ready")
	before := heapInUse()
	report(float64(before)/(1<<20), "MB-mirror")

	var delivered atomic.Int64
	var final atomic.Pointer[digest]
	var reading, told sync.WaitGroup
	seed := maphash.MakeSeed()
	begin = time.Now()
	for i := range sc.subscribers {
		sub := m.Subscribe(watch.Buffer([]int{64, 1024}[i%2]))
		told.Add(1)
		reading.Go(func() {
			defer sub.Close()
			if err := digestOf(ctx, sub, seed, &delivered, &final, told.Done); err != nil {
				tb.Errorf("subscriber %d: %v", i, err)
			}
		})
	}
	told.Wait()
	report(time.Since(begin).Seconds(), "s-subscribers-synced")
	delivered.Store(0)

	stop := make(chan struct{})
	var written atomic.Int64
	var writing sync.WaitGroup
	begin = time.Now()
	for range sc.writers {
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("dir%d/%d", rand.IntN(100), rand.IntN(sc.keys/100))
				var err error
				if rand.IntN(10) == 0 {
					err = src.Delete(ctx, key)
				} else {
					_, err = src.Put(ctx, key, rand.IntN(1<<40))
				}
				if err != nil && !errors.Is(err, kv.ErrNotFound) {
					tb.Errorf("write: %v", err)
					return
				}
				written.Add(1)
			}
		})
	}
	peak := uint64(0)
	for time.Since(begin) < sc.writing {
		time.Sleep(sc.writing / 50)
		peak = max(peak, heapInUse())
	}
	close(stop)
	writing.Wait()
	took := time.Since(begin).Seconds()
	report(float64(written.Load())/took, "writes/s")
	report(float64(delivered.Load())/took, "events/s")

	begin = time.Now()
	if err := m.Sync(ctx); err != nil {
		tb.Fatal(err)
	}
	report(time.Since(begin).Seconds(), "s-mirror-behind")
	want := &digest{}
	for e, err := range src.List(ctx, "", kv.KeysOnly()) {
		if err != nil {
			tb.Fatal(err)
		}
		want.flip(seed, e.Key, e.Revision, 1)
		if has, ok := m.Get(e.Key); !ok || has.Revision != e.Revision {
			tb.Errorf("the mirror has %v, the store revision %d", has, e.Revision)
		}
	}
	if m.Len() != want.keys {
		tb.Errorf("the mirror has %d keys, the store %d", m.Len(), want.keys)
	}
	final.Store(want)
	reading.Wait()
	peak = max(peak, heapInUse())
	report(time.Since(begin).Seconds(), "s-all-there")
	report(float64(peak)/(1<<20), "MB-peak")
	runtime.GC()
	report(float64(heapInUse())/(1<<20), "MB-after")
	if peak > before+sc.heap {
		tb.Errorf("%d MB of heap for a mirror of %d MB", peak>>20, before>>20)
	}
	return figures
}

// writeKeys makes the keys, many in a transaction.
func writeKeys(tb testing.TB, ctx context.Context, s *kv.Store, src *kv.Typed[int], sc scale) {
	var wg sync.WaitGroup
	for dir := range 100 {
		wg.Go(func() {
			for i := 0; i < sc.keys/100; i += 50 {
				tx := s.Txn()
				in := src.In(tx)
				for j := i; j < min(i+50, sc.keys/100); j++ {
					in.Put(fmt.Sprintf("dir%d/%d", dir, j), j)
				}
				if _, err := tx.Commit(ctx); err != nil {
					tb.Errorf("commit: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
}

// digest is a state in a few bytes: of two that differ it does, but for one in
// 2^64.
type digest struct {
	sum  uint64
	keys int
}

func (d *digest) flip(seed maphash.Seed, key string, rev kv.Revision, keys int) {
	d.sum ^= maphash.Comparable(seed, struct {
		key string
		rev kv.Revision
	}{key, rev})
	d.keys += keys
}

// digestOf reads a subscription until it has told the final state.
func digestOf(ctx context.Context, sub *watch.Subscription[int], seed maphash.Seed, delivered *atomic.Int64, final *atomic.Pointer[digest], synced func()) error {
	var d digest
	there := func() bool {
		want := final.Load()
		return want != nil && d == *want
	}
	for n := int64(1); ; n++ {
		// Who has it all before it is known what that is gets no further event.
		soon, cancel := context.WithTimeout(ctx, time.Second)
		ev, err := sub.Next(soon)
		cancel()
		switch {
		case err != nil && soon.Err() != nil && ctx.Err() == nil:
			if there() {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("with %d keys: %w", d.keys, err)
		}
		if ev.Prev != nil {
			d.flip(seed, ev.Key, ev.Prev.Revision, -1)
		}
		switch ev.Kind {
		case kv.Existing, kv.Created, kv.Updated:
			d.flip(seed, ev.Key, ev.Revision, 1)
		case kv.Synced:
			synced()
		}
		if n%64 == 0 {
			delivered.Add(64)
		}
		if there() {
			return nil
		}
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
