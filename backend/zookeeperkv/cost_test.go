package zookeeperkv

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// What each call costs, in requests and in round trips; docs/stores/zookeeper.md has the same figures. A request that the
// machine sends late makes a round trip of its own, and what is done in the background may come late: the figures are those of
// one round of several in which they are all right.
func TestCost(t *testing.T) {
	var wrong []string
	for range 4 {
		if wrong = costs(t); len(wrong) == 0 {
			return
		}
		t.Logf("%q", wrong)
	}
	for _, what := range wrong {
		t.Error(what)
	}
}

// costs returns which calls cost something else than they should.
func costs(t *testing.T) (wrong []string) {
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
			testserver.Eventually(t, time.Minute, "the reaper lists the new second", func() bool {
				return p.of(opGetChildren2) > before
			})
			settle(t, p)
		}
		before, trips := p.requests(), p.delay(20*time.Millisecond)
		test.call()
		got, trips := p.requests()-before, p.delay(0)-trips
		if got != test.want || trips != test.trips {
			wrong = append(wrong, fmt.Sprintf("%s: %d requests in %d round trips, want %d in %d", test.name, got, trips, test.want, test.trips))
		}
		settle(t, p)
	}
	return wrong
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
	var alone func() int // how many watches have been set since the first
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
			alone = func() int { return p.watches() - one }
		}
	}
	settle(t, p)
	connection, _ := driver.link.session.now()
	if n := alone(); n != 0 && connection == 1 { // a new connection sets its watches anew
		t.Errorf("a thousand watches set %d more", n)
	}
	// A ping that waits long for its answer makes the client connect again and look at everything: that may happen to one try on
	// a busy machine, and not to each.
	for try := 1; ; try++ {
		value := fmt.Sprint("new ", try)
		requests, pings := p.requests(), p.pings()
		testserver.Eventually(t, time.Minute, "three pings, of which there is one each 1.3 s", func() bool { return p.pings() >= pings+3 })
		idle, set := p.requests()-requests, alone()
		requests = p.requests()
		put(t, driver, keys[0], value)
		for _, w := range watches {
			for {
				e, err := w.Next(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if string(e.Value) == value {
					break
				}
				if again, _ := driver.link.session.now(); again == connection {
					t.Fatalf("%+v", e) // which on one connection is all that there is
				}
			}
		}
		settle(t, p)
		change := p.requests() - requests
		if set = alone() - set; idle == 0 && change == 2 && set <= 1 { // a change makes one watch anew, and is read once
			break
		}
		t.Logf("%d requests while nothing happens; a put and its event for a thousand watches: %d requests, %d watches", idle, change, set)
		if try == 4 {
			t.Error("that is more than none, and two, and one")
			break
		}
	}
}

// settle waits until nothing is asked any more in the background.
func settle(t *testing.T, p *proxy) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
