package integration

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/watch/watchtest"
)

// TestWatchFaults is R20 for package watch, with eight writers on: connections
// are cut, the network is away for a while, the server is killed, what the store
// remembers is gone when the mirror is back.
func TestWatchFaults(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			srv := testserver.Start(t, testserver.Spec{Store: store, Persist: true})
			direct := srv.Addrs()[0]
			proxy := testserver.NewProxy(t, direct)
			open := func(addr, query string) func(t testing.TB, root string) backend.Store {
				return func(t testing.TB, root string) backend.Store {
					return openDriver(t, string(store)+"://"+addr+"/"+root+query)
				}
			}
			struck := open(proxy.Addr(), "")
			away := func(testing.TB, string) { proxy.Refuse(true); proxy.Cut() }
			back := func(testing.TB, string) { proxy.Refuse(false) }
			nothing := func(testing.TB, string) {}
			faults := []watchtest.Fault{
				{Name: "a cut connection", Begin: func(testing.TB, string) { proxy.Cut() }, End: nothing},
				{Name: "an outage of the network", Begin: away, End: back, Cuts: true},
				{Name: "a kill and a restart of the server", Begin: func(t testing.TB, _ string) {
					if err := srv.Kill(0); err != nil {
						t.Fatal(err)
					}
				}, End: func(t testing.TB, _ string) {
					if err := srv.Restart(context.Background(), 0); err != nil {
						t.Fatal(err)
					}
				}},
			}
			switch store {
			case testserver.Etcd:
				faults = append(faults, watchtest.Fault{
					Name: "a compaction of what it missed", Begin: away, Cuts: true,
					End: func(t testing.TB, root string) { compact(t, direct, root); proxy.Refuse(false) },
				})
			case testserver.Redis:
				faults = append(faults, watchtest.Fault{
					Name: "a log that was trimmed to nothing", Begin: away, Cuts: true,
					End: func(t testing.TB, root string) { trim(t, direct, root); proxy.Refuse(false) },
				})
			case testserver.ZooKeeper:
				faults = append(faults, watchtest.Fault{
					Name: "the end of its session", Begin: away, Cuts: true,
					Open: open(proxy.Addr(), "?session=4s"),
					// The server ends a session that it has not heard for its timeout, a tick later at most.
					End: func(testing.TB, string) { time.Sleep(7 * time.Second); proxy.Refuse(false) },
				})
			}
			for _, f := range faults {
				if f.Open == nil {
					f.Open = struck
				}
				f.Writer = open(direct, "")
				watchtest.RunFault(t, f)
			}
		})
	}
}

// compact makes etcd forget all that is not current.
func compact(t testing.TB, addr, root string) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now, err := c.Get(ctx, root)
	if err == nil {
		_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// trim empties every stream of Redis: the logs of changes.
func trim(t testing.TB, addr, root string) {
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	trimmed := 0
	for it := c.ScanType(ctx, 0, "*"+root+"*", 1000, "stream").Iterator(); it.Next(ctx); {
		n, err := c.XTrimMaxLen(ctx, it.Val(), 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		trimmed += int(n)
	}
	if trimmed == 0 {
		t.Fatal("there was no log to trim")
	}
}
