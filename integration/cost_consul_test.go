package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

// counting counts the requests that pass, and those that are under way.
type counting struct {
	http.RoundTripper
	requests, open atomic.Int64
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	c.open.Add(1)
	defer c.open.Add(-1)
	return c.RoundTripper.RoundTrip(r)
}

// consulWire is a store whose requests are counted, beside a raw client.
func consulWire(t *testing.T) (s *kv.Store, wire *counting, raw *api.KV, root string) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Consul})
	root = testserver.UniqueName(t)
	client := func() *http.Client {
		tr := &http.Transport{MaxIdleConnsPerHost: 64}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	counted := client()
	wire = &counting{RoundTripper: counted.Transport}
	counted.Transport = wire
	s = kv.New(consulkv.New(&api.Config{Address: srv.Addrs()[0], HttpClient: counted}, consulkv.Options{Root: root}))
	other := ok[*api.Client](t)(api.NewClient(&api.Config{Address: srv.Addrs()[0], HttpClient: client()}))
	t.Cleanup(func() {
		s.Close()
		if _, err := other.KV().DeleteTree(root+"/", nil); err != nil {
			t.Error(err)
		}
	})
	return s, wire, other.KV(), root
}

// TestConsulRequests counts what the layer that users hold sends to the agent.
func TestConsulRequests(t *testing.T) {
	s, wire, _, _ := consulWire(t)
	ctx := t.Context()
	big := make([]byte, 128<<10)
	for i := range 40 { // 5 MiB, more than a list gathers before it yields
		ok[kv.Entry[[]byte]](t)(s.Put(ctx, fmt.Sprintf("big/%02d", i), big))
	}
	e := put(t, ctx, s, "k", "v")
	for _, c := range []struct {
		what string
		most int64
		do   func() error
	}{
		{"get", 1, func() error { _, err := s.Get(ctx, "k"); return err }},
		{"get, stale", 1, func() error { _, err := s.Get(ctx, "k", kv.Stale()); return err }},
		{"exists", 1, func() error { _, err := s.Exists(ctx, "none"); return err }},
		{"put", 1, func() error { var err error; e, err = s.Put(ctx, "k", []byte("w")); return err }},
		{"put with a TTL", 1, func() error { _, err := s.Put(ctx, "ttl", nil, kv.TTL(time.Hour)); return err }},
		{"create", 1, func() error { _, err := s.Create(ctx, "new", nil); return err }},
		{"update", 1, func() error { _, err := s.Update(ctx, "k", nil, e.Revision); return err }},
		{"modify", 2, func() error { _, err := s.Modify(ctx, "k", func(*kv.Entry[[]byte]) error { return nil }); return err }},
		{"delete", 1, func() error { return s.Delete(ctx, "new") }},
		{"commit", 1, func() error { tx := s.Txn(); tx.Put("a", nil); tx.Delete("k"); _, err := tx.Commit(ctx); return err }},
		{"a page of a list", 2, func() error { _, err := kv.Collect(s.List(ctx, "", kv.Limit(3))); return err }},
		{"a list of 5 MiB", 2, func() error { _, err := kv.Collect(s.List(ctx, "")); return err }},
		{"children", 2, func() error { _, err := kv.Collect(s.List(ctx, "", kv.Children())); return err }},
	} {
		before := wire.requests.Load()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if n := wire.requests.Load() - before; n > c.most {
			t.Errorf("%s: %d requests, want %d", c.what, n, c.most)
		}
	}
}

// TestConsulSharedWatch opens a thousand watches on one prefix: one read is held at the agent for all of them, it is made
// again no more than a few times a minute while nothing happens, and each watch sees what does.
func TestConsulSharedWatch(t *testing.T) {
	const many = 1000
	s, wire, _, _ := consulWire(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	put(t, ctx, s, "d/k", "v")
	var watches [many]*kv.Watch[[]byte]
	for i := range watches {
		var opts []kv.WatchOption
		if i%10 == 0 {
			opts = append(opts, kv.FromSnapshot())
		}
		watches[i] = ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", opts...))
		if opts != nil {
			nextKey(t, ctx, watches[i], kv.Existing, "d/k")
			nextKey(t, ctx, watches[i], kv.Synced, "")
		}
	}
	until(t, "one read is under way", func() error {
		if n := wire.open.Load(); n != 1 {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
	// Held for 1 s at first, then for longer, up to 20 s. What ends on a busy machine is asked again, and may do so in one try.
	for try := 1; ; try++ {
		idle := time.NewTimer(5 * time.Second)
		before := wire.requests.Load()
		<-idle.C
		still := wire.requests.Load() - before
		key := fmt.Sprint("d/new", try)
		before = wire.requests.Load()
		put(t, ctx, s, key, "v")
		for _, w := range watches {
			nextKey(t, ctx, w, kv.Created, key)
		}
		event := wire.requests.Load() - before
		t.Logf("%d requests in 5 idle seconds, %d for one event", still, event)
		if still <= 5 && event <= 3 { // the put, and the read made again
			break
		}
		if try == 4 {
			t.Error("these are too many")
			break
		}
	}
	for i, w := range watches {
		if i%2 == 0 {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, w := range watches {
		w.Close()
	}
	until(t, "no read is under way", func() error {
		if n := wire.open.Load(); n != 0 {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
}

// TestConsulBesideRaw compares with the raw client's calls of the same consistency, in turns, by their medians.
func TestConsulBesideRaw(t *testing.T) {
	s, _, raw, root := consulWire(t)
	ctx := t.Context()
	value := bytes.Repeat([]byte("v"), 256)
	for i := 0; i < 2000; i += 50 {
		tx := s.Txn()
		for j := i; j < i+50; j++ {
			tx.Put(fmt.Sprintf("d/%d/%04d", j%10, j), value)
		}
		ok[kv.TxnResult](t)(tx.Commit(ctx))
	}
	q := &api.QueryOptions{RequireConsistent: true}
	for _, c := range []struct {
		what  string
		n     int
		limit float64
		raw   func(i int) error
		ours  func(i int) error
	}{
		{"get", 200, 1.10,
			func(int) error { _, _, err := raw.Get(root+"/d/1/0001", q); return err },
			func(int) error { _, err := s.Get(ctx, "d/1/0001"); return err }},
		{"put", 100, 1.15, // whose raw call tells no revision
			func(i int) error {
				_, err := raw.Put(&api.KVPair{Key: root + "-raw", Value: value, Flags: uint64(i)}, nil)
				return err
			},
			func(i int) error { _, err := s.Put(ctx, "k", value); return err }},
		{"list of 2000", 7, 1.20,
			func(int) error { _, _, err := raw.List(root+"/d/", q); return err },
			func(int) error { _, err := kv.Collect(s.List(ctx, "d")); return err }},
	} {
		// The machine is shared with other tests: what it does to one round says nothing, what it does to five does.
		if testserver.Race {
			c.limit *= 1.5 // the detector slows what the library does, and not the server
		}
		best := 0.0
		for range 5 {
			ratio := beside(t, c.n, c.raw, c.ours)
			t.Logf("%s: %.2f times the raw call", c.what, ratio)
			if best == 0 || ratio < best {
				best = ratio
			}
			if best <= c.limit {
				break
			}
		}
		if best > c.limit {
			t.Errorf("%s: %.2f times the raw call, want %.2f", c.what, best, c.limit)
		}
	}
	if _, err := raw.Delete(root+"-raw", nil); err != nil {
		t.Error(err)
	}
}

// beside runs raw and ours n times, by turns and which of them first changing, and returns the ratio of their medians.
func beside(t *testing.T, n int, raw, ours func(i int) error) float64 {
	t.Helper()
	var times [2][]time.Duration
	calls := [2]func(int) error{raw, ours}
	for i := range n {
		for turn := range 2 {
			which := (i + turn) % 2
			start := time.Now()
			if err := calls[which](i); err != nil {
				t.Fatal(err)
			}
			times[which] = append(times[which], time.Since(start))
		}
	}
	for _, ts := range times {
		slices.Sort(ts)
	}
	return float64(times[1][n/2]) / float64(times[0][n/2])
}
