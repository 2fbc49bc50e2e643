package integration

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/polykv/kv"
)

// The benchmarks of this package run a store's own client and this library in
// turns, in one process and on one server: only the ratio x-raw means anything.
// The drivers have benchmarks of their own, of what only they do.

// benchValue is what the benchmarks write.
var benchValue = bytes.Repeat([]byte("v"), 256)

// rawClient is what a program does without this library. Its keys are beside
// the store's, which it lists alike: "many" holds what fill has put there.
type rawClient struct {
	get func() ([]byte, error) // reads as the store's default does
	put func(value []byte) error
	// stale is get with the store's cheap read; nil: it has one kind only.
	stale func() error
	// cas writes at the version that its last write gave, and learns the next.
	cas func() error
	// list returns how many entries it has read, names and values.
	list func() (int, error)
	// watch returns what waits for the event of a put; nil: the client has no
	// such thing.
	watch func(b *testing.B) (event func() error)

	dirs, perDir int // how many directories of how many keys are listed
}

// compare runs all of raw beside s.
func (raw rawClient) compare(b *testing.B, s *kv.Store) {
	ctx := context.Background()
	put := func(int) error { return raw.put(benchValue) }
	get := func(int) error { _, err := raw.get(); return err }
	b.Run("put", func(b *testing.B) { against(b, put, putOf(s)) })
	b.Run("get", func(b *testing.B) { against(b, get, getOf(s)) })
	if raw.stale != nil {
		b.Run("get stale", func(b *testing.B) {
			against(b, func(int) error { return raw.stale() }, getOf(s, kv.Stale()))
		})
	}
	b.Run("cas", func(b *testing.B) {
		e, err := s.Put(ctx, "cas", benchValue)
		if err != nil {
			b.Fatal(err)
		}
		against(b, func(int) error { return raw.cas() }, func(int) (err error) {
			e, err = s.Update(ctx, "cas", benchValue, e.Revision)
			return err
		})
	})
	n := raw.dirs * raw.perDir
	b.Run(fmt.Sprintf("list of %d", n), func(b *testing.B) {
		raw.fill(b, s)
		against(b, func(int) error {
			got, err := raw.list()
			if err == nil && got != n {
				err = fmt.Errorf("%d entries, want %d", got, n)
			}
			return err
		}, listOf(s, n))
	})
	b.Run("event", func(b *testing.B) { raw.events(b, s) })
	b.Run("typed", func(b *testing.B) { raw.typed(b, s) })
}

// events times a put and the wait for its event, in the process that put.
func (raw rawClient) events(b *testing.B, s *kv.Store) {
	ctx := context.Background()
	w, err := s.WatchKey(ctx, "watched")
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	ours := func(int) error {
		if _, err := s.Put(ctx, "watched", benchValue); err != nil {
			return err
		}
		_, err := w.Next(ctx)
		return err
	}
	if raw.watch == nil {
		against(b, nil, ours)
		return
	}
	event := raw.watch(b)
	against(b, func(int) error {
		if err := raw.put(benchValue); err != nil {
			return err
		}
		return event()
	}, ours)
}

// against times raw and ours in turns, which of them first changing, so that whatever else the machine does meets both.
// It reports the ratio of the medians as x-raw. The benchmark's own ns/op is of the two together.
func against(b *testing.B, raw, ours func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	names := []string{"raw", "kv"}
	calls := []func(int) error{raw, ours}
	times := make([][]float64, len(calls))
	for i := range 5 { // connections, scripts and leases come first
		for _, call := range calls {
			if call == nil {
				continue
			}
			if err := call(i); err != nil {
				b.Fatal(err)
			}
		}
	}
	i := 0
	for ; b.Loop(); i++ {
		for turn := range calls {
			which := (i + turn) % len(calls)
			if calls[which] == nil {
				continue
			}
			start := time.Now()
			if err := calls[which](i); err != nil {
				b.Fatal(err)
			}
			times[which] = append(times[which], float64(time.Since(start)))
		}
	}
	median := make([]float64, len(calls))
	for which, name := range names {
		if calls[which] == nil {
			continue
		}
		slices.Sort(times[which])
		median[which] = times[which][len(times[which])/2]
		b.ReportMetric(median[which]/1e3, name+"-µs")
		b.ReportMetric(testing.AllocsPerRun(20, func() { i++; _ = calls[which](i) }), name+"-allocs")
	}
	if raw != nil {
		b.ReportMetric(median[1]/median[0], "x-raw")
	}
	b.ReportMetric(0, "ns/op")
}

func getOf(s *kv.Store, opts ...kv.GetOption) func(int) error {
	return func(int) error { _, err := s.Get(context.Background(), "key", opts...); return err }
}

func putOf(s *kv.Store, opts ...kv.WriteOption) func(int) error {
	return func(int) error { _, err := s.Put(context.Background(), "key", benchValue, opts...); return err }
}

func listOf(s *kv.Store, want int) func(int) error {
	return func(int) error {
		n := 0
		for e, err := range s.List(context.Background(), "many") {
			if err != nil {
				return err
			}
			if len(e.Value) == len(benchValue) {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d entries, want %d", n, want)
		}
		return nil
	}
}

// many calls f for the keys to list, some at a time.
func (raw rawClient) many(f func(keys []string) error) error {
	var keys []string
	for d := range raw.dirs {
		for i := range raw.perDir {
			keys = append(keys, fmt.Sprintf("many/%02d/%05d", d, i))
		}
	}
	for part := range slices.Chunk(keys, 50) {
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// fill puts the keys to list.
func (raw rawClient) fill(b *testing.B, s *kv.Store) {
	b.Helper()
	err := raw.many(func(keys []string) error {
		tx := s.Txn()
		for _, key := range keys {
			tx.Put(key, benchValue)
		}
		_, err := tx.Commit(b.Context())
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}
