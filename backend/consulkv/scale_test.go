package consulkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

// heapMeter samples the live heap while something runs.
type heapMeter struct{ before, most uint64 }

func newHeapMeter() *heapMeter {
	m := &heapMeter{}
	m.before = m.sample()
	m.most = m.before
	return m
}

func (m *heapMeter) sample() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.most = max(m.most, s.HeapAlloc)
	return s.HeapAlloc
}

// grown is the most that was ever live beyond what was there before.
func (m *heapMeter) grown() int64 { return int64(m.most) - int64(m.before) }

// fill writes n keys with the raw client, 64 in a transaction.
func (f *fixture) fill(n int, value []byte) {
	f.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				from := int(next.Add(128)) - 128
				if from >= n {
					return
				}
				var ops api.KVTxnOps
				for i := from; i < min(from+128, n); i++ {
					ops = append(ops, &api.KVTxnOp{Verb: api.KVSet, Key: fmt.Sprintf("%s/d/%03d/%06d", f.root, i%100, i), Value: value})
				}
				if done, _, _, err := f.kv.KV().Txn(ops, nil); err != nil || !done {
					f.Errorf("fill: %v, %v", done, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (f *fixture) wipe() {
	f.Cleanup(func() {
		if _, err := f.kv.KV().DeleteTree(f.root+"/", nil); err != nil {
			f.Error(err)
		}
	})
}

// A hundred thousand keys are listed while no more than their names are held: some 4 MB of names, of an answer of 50 MB.
func TestHundredThousandKeys(t *testing.T) {
	f := setUp(t)
	f.wipe()
	const n = 100_000
	f.fill(n, bytes.Repeat([]byte("v"), 256))
	for name, o := range map[string]backend.ListOptions{"values": {}, "names": {KeysOnly: true}} {
		m, got, last := newHeapMeter(), 0, ""
		before := f.net.requests.Load()
		for e, err := range f.s.List(f.Context(), "d", o) {
			f.noErr(err)
			if e.Key <= last {
				t.Fatalf("%s: %q after %q", name, e.Key, last)
			}
			last = e.Key
			if got++; got%10_000 == 0 {
				m.sample()
			}
		}
		if got != n {
			t.Errorf("%s: %d keys, want %d", name, got, n)
		}
		t.Logf("%s: %d MB held, %d requests", name, m.grown()>>20, f.net.requests.Load()-before)
		if m.grown() > 24<<20 {
			t.Errorf("%s: %d MB held", name, m.grown()>>20)
		}
		if r := f.net.requests.Load() - before; r > 2 {
			t.Errorf("%s: %d requests", name, r)
		}
	}
}

// A reader that does not come for ten seconds, under writes as fast as the server takes them, costs bounded memory, holds
// up nobody, and ends with what there is.
func TestStalledReader(t *testing.T) {
	f := setUp(t)
	f.wipe()
	const buffer = 1 << 20
	s := consulkv.New(&api.Config{Address: f.addr, HttpClient: f.net.client(t)}, consulkv.Options{Root: f.root, WatchBuffer: buffer})
	defer s.Close()
	ctx, cancel := context.WithTimeout(f.Context(), 5*time.Minute)
	defer cancel()
	stalled, err := s.Watch(ctx, "d", backend.WatchOptions{Snapshot: true})
	f.noErr(err)
	defer stalled.Close()
	reading, err := s.Watch(ctx, "d", backend.WatchOptions{Snapshot: true})
	f.noErr(err)
	defer reading.Close()

	const keys = 2000
	value := bytes.Repeat([]byte("v"), 2<<10) // 4 MB in all, four times what the reader may have waiting
	m := newHeapMeter()
	var written, seen atomic.Int64
	writing, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	var writers, readers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := w; writing.Err() == nil; i += 3 {
				var ops api.KVTxnOps
				for j := range 64 {
					k := (i*64 + j) % keys
					op := &api.KVTxnOp{Verb: api.KVSet, Key: fmt.Sprintf("%s/d/%04d", f.root, k), Value: value, Flags: uint64(i)}
					if k%10 == i%10 {
						op.Verb, op.Value = api.KVDelete, nil
					}
					ops = append(ops, op)
				}
				if _, _, _, err := f.kv.KV().Txn(ops, nil); err != nil {
					t.Error(err)
					return
				}
				written.Add(64)
			}
		})
	}
	following, hangUp := context.WithCancel(ctx)
	readers.Go(func() {
		for {
			if _, err := reading.Next(following); err != nil {
				if following.Err() == nil {
					t.Error(err)
				}
				return
			}
			seen.Add(1)
		}
	})
	readers.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.sample()
			case <-writing.Done():
				return
			}
		}
	})
	writers.Wait()
	hangUp()
	readers.Wait()
	t.Logf("%d writes, %d events for the reader that comes, %d MB more in use at most", written.Load(), seen.Load(), m.grown()>>20)
	if written.Load() < 1000 {
		t.Errorf("only %d writes", written.Load())
	}
	if seen.Load() == 0 {
		t.Error("the reader that comes saw nothing")
	}
	// Two watches with a megabyte each, the names that they know, the writers' requests and the answers being read.
	if m.grown() > 40<<20 {
		t.Errorf("%d MB more in use", m.grown()>>20)
	}
	// What the stalled reader makes of the events is what there is.
	want := map[string]backend.Revision{}
	for e, err := range s.List(ctx, "d", backend.ListOptions{}) {
		f.noErr(err)
		want[e.Key] = e.Revision
	}
	got := map[string]backend.Revision{}
	same := func() bool {
		if len(got) != len(want) {
			return false
		}
		for k, r := range want {
			if got[k] != r {
				return false
			}
		}
		return true
	}
	for !same() {
		ev, err := stalled.Next(ctx)
		if err != nil {
			t.Fatalf("with %d keys of %d: %v", len(got), len(want), err)
		}
		switch ev.Kind {
		case backend.Existing, backend.Created, backend.Updated:
			got[ev.Key] = ev.Revision
		case backend.Deleted:
			delete(got, ev.Key)
		}
	}
}

// Kill -9 and restart under load: what was acknowledged is there, and the watch goes on and has it all.
func TestKilledUnderLoad(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Consul})
	var net network
	s := net.open(t, srv.Addrs()[0], "root")
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w, err := s.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	locked, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acked := map[string]backend.Revision{}
	var writers sync.WaitGroup
	writing, stop := context.WithCancel(ctx)
	for i := range 4 {
		writers.Go(func() {
			for n := 0; writing.Err() == nil; n++ {
				key := fmt.Sprintf("w%d/%04d", i, n)
				e, err := s.Put(ctx, key, []byte(key), backend.PutOptions{If: backend.Absent})
				switch {
				case err == nil:
					mu.Lock()
					acked[key] = e.Revision
					mu.Unlock()
				case errors.Is(err, backend.ErrUncertain), errors.Is(err, backend.ErrUnavailable):
					select { // the server is away
					case <-time.After(20 * time.Millisecond):
					case <-writing.Done():
					}
				default:
					t.Errorf("%s: %v", key, err)
					return
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	more := func(n int) {
		for from := count(); count() < from+n; {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				t.Fatal("writes do not go on")
			}
		}
	}
	more(200)
	if err := srv.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	more(200)
	stop()
	writers.Wait()
	t.Logf("%d writes were acknowledged", len(acked))

	there := map[string]backend.Revision{}
	for e, err := range s.List(ctx, "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		there[e.Key] = e.Revision
	}
	for key, rev := range acked {
		if there[key] != rev {
			t.Errorf("%s was acknowledged at revision %d, and is at %d", key, rev, there[key])
		}
	}
	seen := map[string]backend.Revision{}
	for len(seen) < len(there) {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("the watch, with %d of %d keys: %v", len(seen), len(there), err)
		}
		switch ev.Kind {
		case backend.Existing, backend.Created, backend.Updated:
			if old, ok := seen[ev.Key]; ok {
				t.Errorf("%s was told at %d, and again at %d", ev.Key, old, ev.Revision)
			}
			seen[ev.Key] = ev.Revision
		case backend.Deleted:
			t.Errorf("%s was told to be deleted", ev.Key)
		}
	}
	for key, rev := range there {
		if seen[key] != rev {
			t.Errorf("the watch has %s at %d, the store at %d", key, seen[key], rev)
		}
	}
	// The lock outlived the server too.
	if err := locked.Renew(ctx); err != nil {
		t.Errorf("the lock: %v", err)
	}
	if err := locked.Release(ctx); err != nil {
		t.Error(err)
	}
}
