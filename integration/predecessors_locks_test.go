package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// TestPredecessorLocks is about locks that hung, panicked, or were nobody's.
func TestPredecessorLocks(t *testing.T) {
	onDefects(t, []defect{
		{"etcd: a cancelled lock returns (nil, nil)", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			held := ok[*lock.Held](t)(lock.Lock(ctx, s, "l"))
			other := open()
			// The request ends at once, and leaves nothing behind that somebody would wait for.
			for _, timeout := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond, 150 * time.Millisecond} {
				pace.Best(t, timeout+400*time.Millisecond, fmt.Sprintf("a lock with a timeout of %v", timeout), func() time.Duration {
					waiting, cancel := context.WithTimeout(ctx, timeout)
					defer cancel()
					start := time.Now()
					none, err := lock.Lock(waiting, other, "l")
					took := time.Since(start)
					if none != nil || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("a lock with a timeout of %v: %v, %v", timeout, none, err)
					}
					return took
				})
			}
			if err := held.Unlock(ctx); err != nil {
				t.Error(err)
			}
			soon, cancel := pace.Watch(t).Timeout(ctx, 5*time.Second)
			defer cancel()
			again, err := lock.Lock(soon, s, "l")
			if err != nil {
				t.Fatalf("what was cancelled still stands in the queue: %v", err)
			}
			if err := again.Unlock(ctx); err != nil {
				t.Error(err)
			}
		}},
		{"consul: a second unlock panics", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			held := ok[*lock.Held](t)(lock.Lock(ctx, s, "l"))
			for range 3 {
				if err := held.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
			next := ok[*lock.Held](t)(lock.TryLock(ctx, open(), "l"))
			if next.Token() <= held.Token() {
				t.Errorf("token %d after %d", next.Token(), held.Token())
			}
			if err := held.Unlock(ctx); err != nil { // not that of the next one
				t.Error(err)
			}
			if _, err := lock.TryLock(ctx, s, "l"); !errors.Is(err, kv.ErrLocked) {
				t.Errorf("a late unlock by the former holder freed it: %v", err)
			}
			if err := next.Unlock(ctx); err != nil {
				t.Error(err)
			}
		}},
		{"libkv #156: two hold one lock", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			var inside, most, turns atomic.Int64
			var wg sync.WaitGroup
			for i := range 4 {
				client := s
				if i%2 == 1 {
					client = open()
				}
				wg.Go(func() {
					var last uint64
					for range 4 {
						if err := lock.Do(ctx, client, "l", func(ctx context.Context, held *lock.Held) error {
							if held.Token() <= last {
								return fmt.Errorf("token %d after %d", held.Token(), last)
							}
							last = held.Token()
							most.Store(max(most.Load(), inside.Add(1)))
							defer inside.Add(-1)
							turns.Add(1)
							_, err := client.Put(ctx, "written", nil, kv.If(held.Check()))
							return err
						}); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			if most.Load() != 1 || turns.Load() != 16 {
				t.Errorf("%d at once, %d turns of 16", most.Load(), turns.Load())
			}
		}},
		{"consul, etcd: each lock leaks a goroutine", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			round := func(n int) {
				for range n {
					held := ok[*lock.Held](t)(lock.Lock(ctx, s, "l"))
					ended, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
					if _, err := lock.Lock(ended, s, "l"); !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					cancel()
					if err := held.Unlock(ctx); err != nil {
						t.Error(err)
					}
				}
			}
			round(2)
			before := goleak.IgnoreCurrent()
			round(8)
			if err := leaked(before); err != nil {
				t.Error(err)
			}
		}},
	})
}

// TestPredecessorLockLeaks: each lock on etcd left its lease, and each on Consul its session. They are counted at the
// server.
func TestPredecessorLockLeaks(t *testing.T) {
	for store, count := range map[testserver.Store]func(t *testing.T, addr string) int{
		testserver.Etcd: func(t *testing.T, addr string) int {
			c := ok[*clientv3.Client](t)(clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 5 * time.Second}))
			defer c.Close()
			return len(ok[*clientv3.LeaseLeasesResponse](t)(c.Leases(t.Context())).Leases)
		},
		testserver.Consul: func(t *testing.T, addr string) int {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			c := ok[*api.Client](t)(api.NewClient(&api.Config{Address: addr, HttpClient: &http.Client{Transport: transport}}))
			all, _, err := c.Session().List(nil)
			if err != nil {
				t.Fatal(err)
			}
			return len(all)
		},
	} {
		t.Run(string(store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store})
			s := ok[*kv.Store](t)(openURL(t, drivers, storeURL(srv.Addrs()[0], store, testserver.UniqueName(t), testserver.Credentials{}, nil)))
			before := count(t, srv.Addrs()[0])
			for i := range 20 {
				held := ok[*lock.Held](t)(lock.Lock(t.Context(), s, fmt.Sprint("l", i%3)))
				if i%4 == 0 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					_, err := lock.Lock(ctx, s, fmt.Sprint("l", i%3))
					if cancel(); err == nil {
						t.Error("two hold one lock")
					}
				}
				if err := held.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil { // which waits for what is cleaned up in the background
				t.Error(err)
			}
			until(t, "no lease is left", func() error {
				if now := count(t, srv.Addrs()[0]); now > before {
					return fmt.Errorf("%d leases, before there were %d", now, before)
				}
				return nil
			})
		})
	}
}

// predecessorHeartbeat: on Redis the default lock was lost at its first heartbeat, and Unlock hung. A lock is held past
// several renewals, by a store that writes under it all the while.
func predecessorHeartbeat(t *testing.T) {
	onEveryURLAtOnce(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		held := ok[*lock.Held](t)(lock.Lock(ctx, s, "l", lock.Lease(time.Second)))
		renewed := time.NewTimer(s.Capabilities().MinLease*2/3 + time.Second) // renewals are a third of a lease apart
		defer renewed.Stop()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for alive := true; alive; {
			select {
			case <-tick.C:
				if _, err := s.Put(ctx, "k", nil, kv.If(held.Check())); err != nil {
					t.Fatalf("under the lock: %v", err)
				}
			case <-renewed.C:
				alive = false
			}
		}
		if err := held.Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := lock.TryLock(ctx, open(t), "l"); !errors.Is(err, kv.ErrLocked) {
			t.Errorf("somebody else takes it: %v", err)
		}
		start, stalls := time.Now(), pace.Watch(t)
		if err := held.Unlock(ctx); err != nil || time.Since(start) > 2*time.Second+stalls.Since(start) {
			t.Errorf("unlock: %v after %v", err, time.Since(start))
		}
		if _, err := s.Put(ctx, "k", nil, kv.If(held.Check())); !errors.Is(err, kv.ErrLockLost) {
			t.Errorf("a write under the lock that was given up: %v", err)
		}
	})
}

// predecessorTwoLeaders partitions a leader away: it knows that it leads no longer before the next one leads, the
// store refuses what it still writes under its old term, and it campaigns again when the network is back. (libkv #156
// #181, swarm #2654 #1545)
func predecessorTwoLeaders(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, store := range testserver.Stores() {
		all.Go(func() {
			t.Run(string(store), func(t *testing.T) { throughProxy(t, store, twoLeaders) })
		})
	}
}

// twoLeaders tries again if the machine stood still while the first leader's lease ended: what two goroutines then learn of the
// time, they learn in any order.
func twoLeaders(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
	stalls := pace.Watch(t)
	for i := range 3 {
		begin := time.Now()
		if toldFirst(t, ctx, p, s, direct, fmt.Sprint("e", i)) || t.Failed() {
			return
		}
		still := stalls.Since(begin)
		if t.Logf("two led, on a machine that stood still for %v", still); still == 0 {
			break
		}
	}
	t.Error("there are two leaders")
}

// toldFirst reports whether the first leader knew that it leads no longer when the second came to lead.
func toldFirst(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store, name string) (told bool) {
	const lease = 4 * time.Second // a machine that is busy for two of them renews it
	leads := ok[*lock.Leadership](t)(lock.NewElection(s, name, lock.Lease(lease)).Campaign(ctx, "first"))
	work := leads.Context(ctx)
	next := make(chan *lock.Leadership, 1)
	go func() {
		defer close(next)
		l, err := lock.NewElection(direct, name, lock.Lease(lease)).Campaign(ctx, "second")
		if err != nil {
			t.Error(err)
			return
		}
		told = work.Err() != nil
		next <- l
	}()
	until(t, "the second waits", func() error {
		l, err := lock.NewElection(direct, name).Leader(ctx)
		if err == nil && l.Value != "first" {
			err = fmt.Errorf("%q leads", l.Value)
		}
		return err
	})
	p.Refuse(true)
	p.Cut()
	<-work.Done()
	if cause := context.Cause(work); !errors.Is(cause, kv.ErrLockLost) {
		t.Errorf("the first leader's work ended for %v", cause)
	}
	second := <-next
	if second == nil {
		return false
	}
	if second.Token() <= leads.Token() {
		t.Errorf("token %d after %d", second.Token(), leads.Token())
	}
	p.Refuse(false)
	until(t, "the network is back", func() error { return s.Ping(ctx) })
	if _, err := s.Put(ctx, "k", []byte("of the first"), kv.If(leads.Check())); !errors.Is(err, kv.ErrLockLost) {
		t.Errorf("the first leader's late write: %v", err)
	}
	if _, err := direct.Put(ctx, "k", []byte("of the second"), kv.If(second.Check())); err != nil {
		t.Errorf("the second leader's write: %v", err)
	}
	again := make(chan error, 1)
	go func() {
		l, err := lock.NewElection(s, name, lock.Lease(lease)).Campaign(ctx, "first again")
		if err == nil {
			err = l.Resign(ctx)
		}
		again <- err
	}()
	if err := errors.Join(second.Resign(ctx), <-again); err != nil {
		t.Errorf("the first one again: %v", err)
	}
	return told
}
