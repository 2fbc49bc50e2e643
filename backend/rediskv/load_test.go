package rediskv_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestKillUnderLoad: SIGKILL and restart of a server that syncs each write. What was acknowledged is there, and the watch
// goes on: each revision once, in order, and none missing.
func TestKillUnderLoad(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Persist: true, Config: []string{"appendfsync always"}})
	s, err := open(t, "redis://"+srv.Addrs()[0]+"/app", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	w := watching(t, s, "", backend.WatchOptions{})

	const writers = 4
	type ack struct {
		key   string
		value int
	}
	var mu sync.Mutex
	acked := map[backend.Revision]ack{}
	last := [writers]int{}
	var count atomic.Int64
	done := make(chan struct{})
	var load sync.WaitGroup
	for g := range writers {
		load.Go(func() {
			key := "k" + strconv.Itoa(g)
			for i := 1; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				e, err := s.Put(ctx, key, []byte(strconv.Itoa(i)), backend.PutOptions{})
				if err != nil { // it may have been applied
					continue
				}
				count.Add(1)
				mu.Lock()
				acked[e.Revision] = ack{key, i}
				last[g] = i
				mu.Unlock()
			}
		})
	}
	seen := map[backend.Revision]ack{}
	read := make(chan error, 1)
	go func() {
		var at backend.Revision
		for {
			ev, err := w.Next(ctx)
			if err != nil {
				read <- err
				return
			}
			if ev.Kind == backend.Progress {
				read <- nil
				return
			}
			value, _ := strconv.Atoi(string(ev.Value))
			if ev.Revision <= at {
				read <- fmt.Errorf("revision %d after %d", ev.Revision, at)
				return
			}
			at = ev.Revision
			seen[ev.Revision] = ack{ev.Key, value}
		}
	}()
	more := func() {
		enough := count.Load() + 300
		eventually(t, "writes are acknowledged", func() bool { return count.Load() >= enough })
	}
	for range 3 {
		more()
		if err := srv.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := srv.Restart(context.WithoutCancel(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	more()
	close(done)
	load.Wait()
	if err := w.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the watch does not answer Sync")
	}
	for rev, a := range acked {
		if seen[rev] != a {
			t.Errorf("revision %d of %q was acknowledged with %d, the watch has %+v", rev, a.key, a.value, seen[rev])
		}
	}
	for g := range writers {
		e, err := s.Get(ctx, "k"+strconv.Itoa(g), backend.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := strconv.Atoi(string(e.Value)); got < last[g] {
			t.Errorf("%q holds %d, and %d was acknowledged", e.Key, got, last[g])
		}
	}
	t.Logf("%d acknowledged writes, %d events", len(acked), len(seen))
}

// fill writes n keys of size bytes below dir, in as few requests as possible.
func fill(t testing.TB, s backend.Store, dir string, n, size int) {
	value := []byte(strings.Repeat("v", size))
	for i := 0; i < n; {
		var txn backend.Txn
		for ; i < n && len(txn.Writes) < backend.MaxTxnOps; i++ {
			txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("%s/%06d", dir, i), Value: value})
		}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestListIsBounded: 100,000 keys go through a list in memory that does not grow with their number (R14).
func TestListIsBounded(t *testing.T) {
	s, _ := setup(t, rediskv.Options{WatchBuffer: 1 << 20})
	const n, size = 100_000, 200
	fill(t, s, "d", n, size)
	for _, o := range []backend.ListOptions{{}, {KeysOnly: true}} {
		before, most, i := heap(), uint64(0), 0
		last := ""
		for e, err := range s.List(t.Context(), "d", o) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Key <= last || !o.KeysOnly && len(e.Value) != size {
				t.Fatalf("%q after %q with %d bytes", e.Key, last, len(e.Value))
			}
			last = e.Key
			if i++; i%10_000 == 0 {
				most = max(most, heap())
			}
		}
		if i != n {
			t.Errorf("%+v: listed %d of %d", o, i, n)
		}
		if most > before+6<<20 {
			t.Errorf("%+v: the heap grew by %d bytes, for keys of %d", o, most-before, n*size)
		}
	}
}

// TestStalledReader: a reader stalls for a time under all the writes that the machine takes. The watch stays within its
// bytes meanwhile, and afterwards tells every revision, in order (R22, R23). REDISKV_TEST_STALL makes the time longer.
func TestStalledReader(t *testing.T) {
	stall := time.Second
	if v := os.Getenv("REDISKV_TEST_STALL"); v != "" {
		var err error
		if stall, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	s, _ := setup(t, rediskv.Options{WatchBuffer: 256 << 10, History: rediskv.History{Entries: 10_000_000, Bytes: 2 << 30}})
	ctx := t.Context()
	store := kv.New(s)
	w, err := store.Watch(ctx, "d")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	other, err := store.Watch(ctx, "d") // on the same upstream, and not stalled
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var heard atomic.Int64
	go func() {
		for {
			if _, err := other.Next(ctx); err != nil {
				return
			}
			heard.Add(1)
		}
	}()

	const writers, batch, size = 8, 16, 200
	before := heap()
	var written atomic.Int64
	start := time.Now()
	var load sync.WaitGroup
	for g := range writers {
		load.Go(func() {
			value := []byte(strings.Repeat("v", size))
			for i := 0; time.Since(start) < stall; i++ {
				var txn backend.Txn
				for j := range batch {
					txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("d/%d/%d", g, (i*batch+j)%1000), Value: value})
				}
				if _, err := s.Commit(ctx, txn); err != nil {
					t.Error(err)
					return
				}
				written.Add(batch)
			}
		})
	}
	load.Wait()
	n := written.Load()
	t.Logf("%d writes a second", int(float64(n)/time.Since(start).Seconds()))
	eventually(t, "the other reader is not held up", func() bool { return heard.Load() == n })
	if now := heap(); now > before+8<<20 {
		t.Errorf("the heap grew by %d bytes for a reader that is %d bytes behind", now-before, n*size)
	}
	var at backend.Revision
	for i := int64(0); i < n; i++ {
		ctx, cancel := context.WithTimeout(ctx, patience)
		ev, err := w.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", i, n, err)
		}
		if ev.Kind != kv.Created && ev.Kind != kv.Updated || ev.Revision < at {
			t.Fatalf("event %d: %v of %q at %d after %d", i, ev.Kind, ev.Key, ev.Revision, at)
		}
		at = ev.Revision
	}
}
