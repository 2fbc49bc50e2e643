package consulkv_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

// Each benchmark runs the raw client beside the Store, in one process and on
// one server.
type bench struct {
	*testing.B
	s    *consulkv.Store
	kv   *api.Client
	root string
}

func setUpBench(b *testing.B) *bench {
	addr := servers.Shared(b, testserver.Spec{Store: testserver.Consul}).Addrs()[0]
	root := testserver.UniqueName(b)
	s := consulkv.New(&api.Config{Address: addr}, consulkv.Options{Root: root})
	b.Cleanup(func() { s.Close() })
	client, err := api.NewClient(&api.Config{Address: addr, HttpClient: new(network).client(b)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if _, err := client.KV().DeleteTree(root+"/", nil); err != nil {
			b.Error(err)
		}
	})
	return &bench{b, s, client, root}
}

// beside runs raw and ours by turns, so that what else the machine does hits
// both, and reports the medians and their ratio.
func (b *bench) beside(raw, ours func(i int) error) {
	var times [2][]time.Duration
	for i := 0; b.Loop(); i++ {
		for j, do := range []func(int) error{raw, ours} {
			began := time.Now()
			if err := do(i); err != nil {
				b.Fatal(err)
			}
			times[j] = append(times[j], time.Since(began))
		}
	}
	var median [2]float64
	for j := range times {
		slices.Sort(times[j])
		median[j] = float64(times[j][len(times[j])/2].Microseconds())
	}
	b.ReportMetric(median[0], "raw-µs")
	b.ReportMetric(median[1], "kv-µs")
	b.ReportMetric(median[1]/median[0], "ratio")
}

var value256 = bytes.Repeat([]byte("v"), 256)

// The raw put that tells the revision, as ours does, is a transaction.
func BenchmarkPut(b *testing.B) {
	f := setUpBench(b)
	f.beside(func(i int) error {
		_, _, _, err := f.kv.KV().Txn(api.KVTxnOps{{Verb: api.KVSet, Key: fmt.Sprintf("%s/r%d", f.root, i%1000), Value: value256, Flags: uint64(i)}}, nil)
		return err
	}, func(i int) error {
		_, err := f.s.Put(b.Context(), fmt.Sprintf("k%d", i%1000), value256, backend.PutOptions{})
		return err
	})
}

func BenchmarkPutWithoutRevision(b *testing.B) {
	f := setUpBench(b)
	f.beside(func(i int) error {
		_, err := f.kv.KV().Put(&api.KVPair{Key: fmt.Sprintf("%s/r%d", f.root, i%1000), Value: value256, Flags: uint64(i)}, nil)
		return err
	}, func(i int) error {
		_, err := f.s.Put(b.Context(), fmt.Sprintf("k%d", i%1000), value256, backend.PutOptions{})
		return err
	})
}

func BenchmarkGet(b *testing.B) {
	f := setUpBench(b)
	if _, err := f.s.Put(b.Context(), "k", value256, backend.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	q := &api.QueryOptions{RequireConsistent: true}
	f.beside(
		func(int) error { _, _, err := f.kv.KV().Get(f.root+"/k", q); return err },
		func(int) error { _, err := f.s.Get(b.Context(), "k", backend.GetOptions{}); return err })
}

func BenchmarkList2000(b *testing.B) {
	f := setUpBench(b)
	f.fill(2000)
	q := &api.QueryOptions{RequireConsistent: true}
	f.beside(func(int) error {
		all, _, err := f.kv.KV().List(f.root+"/", q)
		if err == nil && len(all) != 2000 {
			err = fmt.Errorf("%d keys", len(all))
		}
		return err
	}, func(int) error {
		n := 0
		for _, err := range f.s.List(b.Context(), "", backend.ListOptions{}) {
			if err != nil {
				return err
			}
			n++
		}
		if n != 2000 {
			return fmt.Errorf("%d keys", n)
		}
		return nil
	})
}

// fill writes n keys of 256 bytes, 64 in a transaction.
func (b *bench) fill(n int) {
	for i := 0; i < n; {
		var t backend.Txn
		for ; len(t.Writes) < backend.MaxTxnOps && i < n; i++ {
			t.Writes = append(t.Writes, backend.Write{Key: fmt.Sprintf("k%06d", i), Value: value256})
		}
		if _, err := b.s.Commit(b.Context(), t); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLock(b *testing.B) {
	f := setUpBench(b)
	f.beside(func(int) error {
		l, err := f.kv.LockOpts(&api.LockOptions{Key: f.root + "/lock", SessionTTL: "10s"})
		if err != nil {
			return err
		}
		if _, err := l.Lock(nil); err != nil {
			return err
		}
		return l.Unlock()
	}, func(int) error {
		c, err := f.s.Contend(b.Context(), "lock", backend.ContendOptions{})
		if err != nil {
			return err
		}
		if err := c.Wait(b.Context()); err != nil {
			return err
		}
		return c.Release(b.Context())
	})
}

// What a List holds must not grow with the values.
func BenchmarkList100k(b *testing.B) {
	f := setUpBench(b)
	f.fill(100_000)
	f.beside(func(int) error { _, _, err := f.kv.KV().List(f.root+"/", nil); return err }, func(int) error {
		for _, err := range f.s.List(b.Context(), "", backend.ListOptions{}) {
			if err != nil {
				return err
			}
		}
		return nil
	})
}
