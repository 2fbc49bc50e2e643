package integration

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// lockOf acquires and releases an uncontended lock.
func lockOf(s *kv.Store) func(int) error {
	return func(int) error {
		ctx := context.Background()
		h, err := lock.Lock(ctx, s, "lock")
		if err != nil {
			return err
		}
		return h.Unlock(ctx)
	}
}

// BenchmarkLock acquires and releases an uncontended lock with each client library's own recipe and with this library, in turns.
func BenchmarkLock(b *testing.B) {
	// A concurrency.Mutex on a session that is made once, as its users do. (A session for each lock costs two requests more. A
	// mutex does without a lease of its own, so two of one session both acquire.)
	b.Run("etcd", func(b *testing.B) {
		srv := servers.Shared(b, testserver.Spec{Store: testserver.Etcd})
		c, err := clientv3.New(clientv3.Config{Endpoints: srv.Addrs(), DialTimeout: 5 * time.Second})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		root, ctx := testserver.UniqueName(b), context.Background()
		s := kv.New(etcdkv.New(c, etcdkv.Options{Root: root}))
		b.Cleanup(func() { s.Close() })
		session, err := concurrency.NewSession(c, concurrency.WithTTL(15))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { session.Close() })
		m := concurrency.NewMutex(session, root+"-raw/lock")
		against(b, func(int) error {
			if err := m.Lock(ctx); err != nil {
				return err
			}
			return m.Unlock(ctx)
		}, lockOf(s))
	})
	// An api.Lock makes a session for each lock unless it is given one, which then is the caller's to renew: its users let it. It
	// never ends one, but leaves it to expire.
	b.Run("consul", func(b *testing.B) {
		srv := servers.Shared(b, testserver.Spec{Store: testserver.Consul})
		conf := api.DefaultConfig()
		conf.Address = srv.Addrs()[0]
		c, err := api.NewClient(conf)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(conf.Transport.CloseIdleConnections)
		root := testserver.UniqueName(b)
		against(b, func(int) error {
			l, err := c.LockOpts(&api.LockOptions{Key: root + "-raw/lock", SessionTTL: "10s"})
			if err != nil {
				return err
			}
			if _, err := l.Lock(nil); err != nil {
				return err
			}
			return l.Unlock()
		}, lockOf(benchStore(b, srv, root)))
	})
	b.Run("zookeeper", func(b *testing.B) {
		srv := servers.Shared(b, testserver.Spec{Store: testserver.ZooKeeper})
		c, events, err := zk.Connect(srv.Addrs(), 10*time.Second, zk.WithLogger(noLog{}))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			c.Close()
			for range events {
				// until its goroutines are gone
			}
		})
		root := testserver.UniqueName(b)
		against(b, func(int) error {
			l := zk.NewLock(c, "/"+root+"-raw/lock", zk.WorldACL(zk.PermAll))
			if err := l.Lock(); err != nil {
				return err
			}
			return l.Unlock()
		}, lockOf(benchStore(b, srv, root)))
	})
}

func benchStore(b *testing.B, srv *testserver.Server, root string) *kv.Store {
	b.Helper()
	s, err := openURL(b, drivers, storeURL(srv.Addrs()[0], srv.Store(), root, testserver.Credentials{}, nil))
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkLockHandOff has a hundred wait for one lock, in four clients, and reports how long it takes from the beginning of
// an Unlock until the next of them holds the lock: the median, and what nineteen in twenty stay under.
func BenchmarkLockHandOff(b *testing.B) {
	for _, st := range everyStore {
		b.Run(st.name, func(b *testing.B) {
			open, root := st.open(b), testserver.UniqueName(b)
			stores := make([]*kv.Store, 4)
			for i := range stores {
				stores[i] = kv.New(open(b, root))
				b.Cleanup(func() { stores[i].Close() })
			}
			times := handOff(b, stores, 100)
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2]), "median-ns")
			b.ReportMetric(float64(times[len(times)*19/20]), "p95-ns")
		})
	}
}

// handOff hands a lock on b.N times, after so many times that all are sure to wait.
func handOff(b *testing.B, stores []*kv.Store, waiters int) (times []time.Duration) {
	ctx := b.Context()
	first, err := lock.Lock(ctx, stores[0], "lock", lock.Lease(time.Minute))
	if err != nil {
		b.Fatal(err)
	}
	// What follows is guarded by the lock itself, as far as the store can be trusted, and by mu.
	var mu sync.Mutex
	released, n := time.Now(), 0
	next := func() (more bool) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n == waiters {
			b.ResetTimer()
		} else if n > waiters && n <= waiters+b.N {
			times = append(times, time.Since(released))
		}
		if n == waiters+b.N {
			b.StopTimer()
		}
		released = time.Now()
		return n < waiters+b.N
	}
	var over sync.WaitGroup
	for i := range waiters {
		over.Go(func() {
			for more := true; more; {
				h, err := lock.Lock(ctx, stores[i%len(stores)], "lock", lock.Lease(time.Minute))
				if err != nil {
					b.Errorf("lock: %v", err)
					return
				}
				more = next()
				if err := h.Unlock(ctx); err != nil {
					b.Errorf("unlock: %v", err)
				}
			}
		})
	}
	if err := first.Unlock(ctx); err != nil {
		b.Fatal(err)
	}
	over.Wait()
	return times
}
