package zookeeperkv

import (
	"context"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// What each call costs, in requests; docs/stores/zookeeper.md has the same figures.
func TestCost(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	ctx := t.Context()
	var e backend.Entry
	var l backend.Lease
	var c backend.Contender
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
	for _, warm := range []string{"l", "m"} {
		var err error
		c, err = s.Contend(ctx, warm, backend.ContendOptions{})
		must(err)
		must(c.Release(ctx))
	}
	settle(t, p)

	for _, test := range []struct {
		name string
		want int64
		call func()
	}{
		{"Get: sync and getData", 2, func() { _, err := s.Get(ctx, "d/k", backend.GetOptions{}); must(err) }},
		{"Get, stale", 1, func() { _, err := s.Get(ctx, "d/k", backend.GetOptions{Stale: true}); must(err) }},
		{"Get where TTLs are used: the stamp beside it", 3, func() { _, err := s.Get(ctx, "ttl/k", backend.GetOptions{}); must(err) }},
		{"GetMany of a few", 3, func() { _, err := s.GetMany(ctx, []string{"d/k", "d/l"}, backend.GetOptions{}); must(err) }},
		{"Put", 1, set("d/k", backend.PutOptions{})},
		{"Put of a new key", 2, set("d/new", backend.PutOptions{})},
		{"Put if absent", 1, set("d/gone", backend.PutOptions{If: backend.Absent})},
		{"Put at a revision: exists and multi", 2, func() {
			set("d/k", backend.PutOptions{If: backend.AtRevision, Revision: func() backend.Revision {
				set("d/k", backend.PutOptions{})()
				return e.Revision
			}()})()
			p.forgive(1) // for the put before
		}},
		{"Delete: exists of key and directory, multi, a look at the directory", 4, func() {
			must(s.Delete(ctx, "d/gone", backend.DeleteOptions{}))
			settle(t, p)
		}},
		{"Put with a TTL, again", 3, set("ttl/k", backend.PutOptions{TTL: time.Hour})},
		{"Renew of a registration", 1, func() { must(l.Renew(ctx)) }},
		{"Contend for a free lock, and the watch of the place", 2, func() {
			var err error
			c, err = s.Contend(ctx, "l", backend.ContendOptions{})
			must(err)
			must(c.Wait(ctx))
			settle(t, p)
		}},
		{"Renew of a place", 1, func() { must(c.Renew(ctx)) }},
		{"Release", 1, func() { must(c.Release(ctx)) }},
		{"Ping", 1, func() { must(s.Ping(ctx)) }},
	} {
		if l == nil {
			var err error
			l, err = s.Register(ctx, "ttl/leased", nil, backend.RegisterOptions{TTL: time.Minute})
			must(err)
			settle(t, p)
		}
		before := p.requests()
		test.call()
		if got := p.requests() - before; got != test.want {
			t.Errorf("%s: %d requests, want %d", test.name, got, test.want)
		}
		settle(t, p)
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
