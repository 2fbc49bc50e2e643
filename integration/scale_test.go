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
	"syscall"
	"testing"
	"time"

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
	heap                       uint64     // what may be used beyond the mirror itself
	rate                       int        // writes a second at least on Redis
	commits                    func() int // so far, of a store whose writers share them
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
// bbolt and Redis take: all arrive at the store's state, in bounded memory. Of
// the writes there are also those with nobody to follow them, and with one.
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
		sc.commits = func() (id int) {
			if err := db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
				tb.Error(err)
			}
			return id
		}
		f(tb, s, sc)
	})
	run("redis", func(tb T) {
		srv := servers.Shared(tb, testserver.Spec{Store: testserver.Redis})
		url := "redis://" + srv.Addrs()[0] + "/" + testserver.UniqueName(tb)
		s, err := kv.Drivers{rediskv.Driver{}}.Open(tb.Context(), url)
		if err != nil {
			tb.Fatal(err)
		}
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
	report(writeFor(tb, ctx, src, sc, sc.writing/6), "writes/s-unwatched")

	begin := time.Now()
	m, err := watch.NewMirror(ctx, src)
	if err != nil {
		tb.Fatal(err)
	}
	defer m.Close()
	report(time.Since(begin).Seconds(), "s-mirror-ready")
	report(writeFor(tb, ctx, src, sc, sc.writing/6), "writes/s-0-subscribers")
	before := heapInUse()
	report(float64(before)/(1<<20), "MB-mirror")

	r := &readers{seed: maphash.MakeSeed()}
	writing, ended := context.WithCancel(ctx)
	defer ended()
	r.start(tb, ctx, writing, m, 1)
	report(writeFor(tb, ctx, src, sc, sc.writing/6), "writes/s-1-subscriber")
	begin = time.Now()
	r.start(tb, ctx, writing, m, sc.subscribers-1)
	report(time.Since(begin).Seconds(), "s-subscribers-synced")

	r.delivered.Store(0)
	peak := newPeak(sc.writing / 50)
	commits, busy := 0, cpuTime(tb)
	if sc.commits != nil {
		commits = sc.commits()
	}
	begin = time.Now()
	rate := writeFor(tb, ctx, src, sc, sc.writing)
	took := time.Since(begin)
	busy = cpuTime(tb) - busy
	delivered := float64(r.delivered.Load())
	report(rate, "writes/s")
	report(delivered/took.Seconds(), "events/s")
	report(busy.Seconds()/took.Seconds(), "cores-used") // by writers, mirror and readers; Redis comes on top
	if sc.commits != nil {
		report(rate*took.Seconds()/float64(sc.commits()-commits), "writes/commit")
	}

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
		want.flip(maphash.String(r.seed, e.Key), e.Revision, 1)
		if has, ok := m.Get(e.Key); !ok || has.Revision != e.Revision {
			tb.Errorf("the mirror has %v, the store revision %d", has, e.Revision)
		}
	}
	if m.Len() != want.keys {
		tb.Errorf("the mirror has %d keys, the store %d", m.Len(), want.keys)
	}
	r.final.Store(want)
	ended()
	r.running.Wait()
	report(time.Since(begin).Seconds(), "s-all-there")
	most := peak.stop()
	report(float64(most)/(1<<20), "MB-peak")
	runtime.GC()
	report(float64(heapInUse())/(1<<20), "MB-after")
	if most > before+sc.heap {
		tb.Errorf("%d MB of heap for a mirror of %d MB", most>>20, before>>20)
	}
	return figures
}

// writeFor has the writers put and delete keys for so long, as fast as they
// can, and returns how many writes a second that were.
func writeFor(tb testing.TB, ctx context.Context, src *kv.Typed[int], sc scale, long time.Duration) float64 {
	var written atomic.Int64
	var writing sync.WaitGroup
	begin := time.Now()
	for range sc.writers {
		writing.Go(func() {
			for time.Since(begin) < long {
				key := fmt.Sprintf("dir%d/%d", rand.IntN(100), rand.IntN(sc.keys/100))
				var err error
				if rand.IntN(10) == 0 {
					err = src.Delete(ctx, key)
				} else {
					_, err = src.Put(ctx, key, rand.IntN(1<<40))
				}
				switch {
				case err == nil:
					written.Add(1)
				case !errors.Is(err, kv.ErrNotFound):
					tb.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	writing.Wait()
	return float64(written.Load()) / time.Since(begin).Seconds()
}

// peak is the most of heap that was in use.
type peak struct {
	most    uint64
	stopped chan struct{}
	done    chan struct{}
}

// newPeak looks at each tick until stop.
func newPeak(tick time.Duration) *peak {
	p := &peak{stopped: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		ticks := time.NewTicker(tick)
		defer ticks.Stop()
		for {
			p.most = max(p.most, heapInUse())
			select {
			case <-ticks.C:
			case <-p.stopped:
				return
			}
		}
	}()
	return p
}

func (p *peak) stop() uint64 {
	close(p.stopped)
	<-p.done
	return max(p.most, heapInUse())
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

// cpuTime is what this process has had of the processors.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
