package zookeeperkv

import (
	"context"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// What each call costs, in requests and in round trips; docs/stores/zookeeper.md has the same figures.
func TestCost(t *testing.T) {
	addr := shared(t)
	p := newProxy(t, addr)
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	ctx := t.Context()
	var e backend.Entry
	var l backend.Lease
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set := func(key string, o backend.PutOptions) func() {
		return func() {
			var err error
			e, err = s.Put(ctx, key, []byte("v"), o)
			must(err)
		}
	}
	// Once, so that the bookkeeping, its guards and the directories are there.
	for _, key := range []string{"d/k", "d/gone", "ttl/k"} {
		set(key, backend.PutOptions{})()
		set(key, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})()
	}
	must(s.Delete(ctx, "d/gone", backend.DeleteOptions{}))
	set("ttl/k", backend.PutOptions{TTL: time.Hour})()
	many := fill(t, s, "d", 1, 50, 10)
	listed(t, s, "d000", backend.ListOptions{}) // finds out whether the server answers multiRead
	c, err := s.Contend(ctx, "m", backend.ContendOptions{})
	must(err)
	must(c.Release(ctx))
	// Each minute the server removes what locks have left behind: not this one, which is no container.
	_, err = raw(t, addr).Create(s.lockDir("l"), nil, zk.FlagPersistent, zk.WorldACL(zk.PermAll))
	must(err)
	settle(t, p)

	for _, test := range []struct {
		name  string
		want  int64
		trips int64
		call  func()
	}{
		{"Get: sync and getData", 2, 1, func() { _, err := s.Get(ctx, "d/k", backend.GetOptions{}); must(err) }},
		{"Get, stale", 1, 1, func() { _, err := s.Get(ctx, "d/k", backend.GetOptions{Stale: true}); must(err) }},
		{"Get where TTLs are used: the stamp beside it", 3, 1, func() { _, err := s.Get(ctx, "ttl/k", backend.GetOptions{}); must(err) }},
		{"GetMany of a few", 3, 1, func() { _, err := s.GetMany(ctx, []string{"d/k", "d/l"}, backend.GetOptions{}); must(err) }},
		{"GetMany", 2, 1, func() { _, err := s.GetMany(ctx, many, backend.GetOptions{}); must(err) }},
		{"List, a page: sync and getChildren, multiRead", 3, 2, func() { listed(t, s, "d000", backend.ListOptions{Limit: 40}) }},
		{"List, the next page", 3, 2, func() { listed(t, s, "d000", backend.ListOptions{Limit: 40, After: many[39]}) }},
		{"List, stale", 2, 2, func() { listed(t, s, "d000", backend.ListOptions{GetOptions: backend.GetOptions{Stale: true}}) }},
		{"List of nothing", 2, 1, func() { listed(t, s, "no/such", backend.ListOptions{}) }},
		{"Put", 1, 1, set("d/k", backend.PutOptions{})},
		{"Put of a new key", 2, 2, set("d/new", backend.PutOptions{})},
		{"Put if absent", 1, 1, set("d/gone", backend.PutOptions{If: backend.Absent})},
		{"Put at a revision: exists and multi", 2, 3, func() {
			set("d/k", backend.PutOptions{If: backend.AtRevision, Revision: func() backend.Revision {
				set("d/k", backend.PutOptions{})()
				return e.Revision
			}()})()
			p.forgive(1) // for the put before
		}},
		{"Delete: exists of key and directory, multi, a look at the directory", 4, 3, func() {
			must(s.Delete(ctx, "d/gone", backend.DeleteOptions{}))
			settle(t, p)
		}},
		{"Put with a TTL, again", 3, 2, set("ttl/k", backend.PutOptions{TTL: time.Hour})},
		{"Renew of a registration", 1, 1, func() { must(l.Renew(ctx)) }},
		{"Contend for a free lock, and the watch of the place", 2, 2, func() {
			var err error
			c, err = s.Contend(ctx, "l", backend.ContendOptions{})
			must(err)
			must(c.Wait(ctx))
			settle(t, p)
		}},
		{"Renew of a place", 1, 1, func() { must(c.Renew(ctx)) }},
		{"Release", 1, 1, func() { must(c.Release(ctx)) }},
		{"Ping", 1, 1, func() { must(s.Ping(ctx)) }},
	} {
		if l == nil {
			var err error
			const opGetChildren2 = 12
			before := p.of(opGetChildren2)
			l, err = s.Register(ctx, "ttl/leased", nil, backend.RegisterOptions{TTL: time.Minute})
			must(err)
			testserver.Eventually(t, 10*time.Second, "the reaper lists the new second", func() bool {
				return p.of(opGetChildren2) > before
			})
			settle(t, p)
		}
		before, trips := p.requests(), p.delay(20*time.Millisecond)
		test.call()
		got, trips := p.requests()-before, p.delay(0)-trips
		if got != test.want || trips != test.trips {
			t.Errorf("%s: %d requests in %d round trips, want %d in %d", test.name, got, trips, test.want, test.trips)
		}
		settle(t, p)
	}
}

// An idle watch costs pings and nothing else, and a thousand watches of one prefix in one process cost the server one.
func TestCostOfWatches(t *testing.T) {
	p := newProxy(t, shared(t))
	driver := open(t, p.addr(), testserver.UniqueName(t), Options{SessionTimeout: 4 * time.Second})
	keys := fill(t, driver, "d", 2, 10, 10)
	s := kv.New(driver)
	defer s.Close()
	ctx := t.Context()
	watches := make([]*kv.Watch[[]byte], 1000)
	for i := range watches {
		w, err := s.Watch(ctx, "d000")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watches[i] = w
		if i == 0 {
			settle(t, p)
			one := p.watches()
			// The directory, its children and ten keys with two each, and what the bookkeeping has that is missing.
			if one > 2*11+4 {
				t.Errorf("one watch sets %d at the server", one)
			}
			defer func() {
				// A change makes one watch anew, and is read once.
				if n := p.watches() - one; n > 1 {
					t.Errorf("a thousand watches set %d more", n)
				}
			}()
		}
	}
	settle(t, p)
	requests, pings := p.requests(), p.pings()
	testserver.Eventually(t, 20*time.Second, "three pings, of which there is one each 1.3 s", func() bool { return p.pings() >= pings+3 })
	if n := p.requests() - requests; n != 0 {
		t.Errorf("%d requests while nothing happens", n)
	}
	before := p.requests()
	put(t, driver, keys[0], "new")
	for _, w := range watches {
		if e, err := w.Next(ctx); err != nil || string(e.Value) != "new" {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	settle(t, p)
	if n := p.requests() - before; n != 2 {
		t.Errorf("a put and its event for a thousand watches: %d requests", n)
	}
}

// settle waits until nothing is asked any more in the background.
func settle(t *testing.T, p *proxy) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	quiet, last := 0, p.requests()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for quiet < 5 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("there is no end of requests")
		}
		if n := p.requests(); n != last {
			quiet, last = 0, n
		} else {
			quiet++
		}
	}
}
