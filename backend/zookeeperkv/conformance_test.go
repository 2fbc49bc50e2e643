package zookeeperkv

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/internal/testserver"
)

// TestConformance runs the suite through the Driver, over a proxy that counts and breaks. Each case leaves the server as it
// found it.
func TestConformance(t *testing.T) {
	server := testserver.Start(t, testserver.Spec{Store: testserver.ZooKeeper, Persist: true})
	p := newProxy(t, server.Addrs()[0])
	tidy := newTidy(t, server.Addrs()[0])
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			tidy.watch(t, root)
			return open(t, p.addr(), root, Options{})
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			tidy.other(root)
			return foreign{raw(t, server.Addrs()[0]), "/" + root}
		},
		Requests: p.requests,
		// The process that Restart starts outlives the case.
		Leaks: []goleak.Option{goleak.IgnoreAnyFunction("github.com/polykv/kv/internal/testserver.(*process).run")},
		Break: func(testing.TB) { p.cut() },
		Pause: func(testing.TB) func() { return p.pause() },
		Restart: func(t testing.TB) {
			if err := server.Kill(0); err != nil {
				t.Fatal(err)
			}
			if err := server.Restart(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestConformanceNew runs the suite on connections of the caller's.
func TestConformanceNew(t *testing.T) {
	addr := shared(t)
	tidy := newTidy(t, addr)
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			tidy.watch(t, root)
			return New(raw(t, addr), Options{Root: root, SessionTimeout: 10 * time.Second})
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			tidy.other(root)
			return foreign{raw(t, addr), "/" + root}
		},
	})
}
