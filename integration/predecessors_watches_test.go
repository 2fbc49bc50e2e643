package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/testserver"
)

// nextKey reads the next event and fails unless it is this one.
func nextKey[T any](t testing.TB, ctx context.Context, w *kv.Watch[T], kind kv.Kind, key string) kv.Event[T] {
	t.Helper()
	ev := ok[kv.Event[T]](t)(w.Next(ctx))
	if ev.Kind != kind || ev.Key != key {
		t.Fatalf("got %v of %q, want %v of %q", ev.Kind, ev.Key, kind, key)
	}
	return ev
}

// TestPredecessorWatches is about watches that did not show what happened.
func TestPredecessorWatches(t *testing.T) {
	onDefects(t, []defect{
		{"etcd: a watch of an empty tree fails", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			for _, opts := range [][]kv.WatchOption{nil, {kv.FromSnapshot()}} {
				w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "never/written", opts...))
				if opts != nil {
					nextKey(t, ctx, w, kv.Synced, "")
				}
				put(t, ctx, open(), "never/written/k", "v")
				nextKey(t, ctx, w, kv.Created, "never/written/k")
				if err := errors.Join(w.Close(), s.Delete(ctx, "never/written/k")); err != nil {
					t.Error(err)
				}
			}
		}},
		{"consul: a watch never shows deletes", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "d/k", "v")
			tree := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
			defer tree.Close()
			key := ok[*kv.Watch[[]byte]](t)(s.WatchKey(ctx, "d/k"))
			defer key.Close()
			if err := open().Delete(ctx, "d/k"); err != nil {
				t.Fatal(err)
			}
			nextKey(t, ctx, tree, kv.Deleted, "d/k")
			nextKey(t, ctx, key, kv.Deleted, "d/k")
		}},
		{"redis: the delete of the last key of a tree makes no event", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "d/a", "v")
			put(t, ctx, s, "d/b", "v")
			w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
			defer w.Close()
			nextKey(t, ctx, w, kv.Existing, "d/a")
			nextKey(t, ctx, w, kv.Existing, "d/b")
			nextKey(t, ctx, w, kv.Synced, "")
			for _, key := range []string{"d/a", "d/b"} {
				if err := open().Delete(ctx, key); err != nil {
					t.Fatal(err)
				}
				nextKey(t, ctx, w, kv.Deleted, key)
			}
		}},
		{"zookeeper: a watch of a tree sees neither values nor what is deep", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
			defer w.Close()
			other := open()
			for _, key := range []string{"d/a", "d/a/b/c/d", "d/a/b"} {
				put(t, ctx, other, key, "1")
				nextKey(t, ctx, w, kv.Created, key)
				put(t, ctx, other, key, "2")
				if ev := nextKey(t, ctx, w, kv.Updated, key); string(ev.Value) != "2" {
					t.Errorf("%q was updated to %q", key, ev.Value)
				}
			}
			if err := other.Delete(ctx, "d/a/b/c/d"); err != nil {
				t.Fatal(err)
			}
			nextKey(t, ctx, w, kv.Deleted, "d/a/b/c/d")
		}},
		{"consul: an identical put makes no event", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			before := put(t, ctx, s, "d/k", "same")
			w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d"))
			defer w.Close()
			after := put(t, ctx, open(), "d/k", "same")
			if ev := nextKey(t, ctx, w, kv.Updated, "d/k"); ev.Revision != after.Revision || after.Revision <= before.Revision {
				t.Errorf("revision %d, then %d, the event's is %d", before.Revision, after.Revision, ev.Revision)
			}
		}},
		{"etcd: the key may change between the read and the watch", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			// A writer counts without a pause; whoever comes sees where it is and each number that its store promises, with
			// no gap and no repeat where the snapshot ends.
			writing, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() {
				other := kv.NewTyped(open(), codec.JSON[int](), "")
				for i := 1; ; i++ {
					if _, err := other.Put(writing, "d/n", i); err != nil {
						if writing.Err() != nil {
							err = nil
						}
						done <- err
						return
					}
				}
			}()
			src := kv.NewTyped(s, codec.JSON[int](), "")
			for range 5 {
				w := ok[*kv.Watch[int]](t)(src.Watch(ctx, "d", kv.FromSnapshot()))
				last, events := 0, 0
				for events < 15 {
					ev := ok[kv.Event[int]](t)(w.Next(ctx))
					if ev.Kind == kv.Synced {
						continue
					}
					if ev.Value <= last || w.Lossless() && last > 0 && ev.Value != last+1 {
						t.Errorf("%v of %d after %d", ev.Kind, ev.Value, last)
					}
					last = ev.Value
					events++
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}},
		{"libkv: cancelled watches leak", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "d/k", "v")
			// What one watch needs for good (a connection, say) is there before goroutines are counted.
			round := func(n int) {
				for i := range n {
					each, cancel := context.WithCancel(ctx)
					w := ok[*kv.Watch[[]byte]](t)(s.Watch(each, fmt.Sprint("d/", i%3), kv.FromSnapshot()))
					if i%2 == 0 {
						nextKey(t, ctx, w, kv.Synced, "")
					}
					cancel()
					if ev, err := w.Next(ctx); i%2 == 0 && !errors.Is(err, context.Canceled) {
						t.Fatalf("a watch with an ended context gave %v, %v", ev.Kind, err)
					}
				}
			}
			round(2)
			before := goleak.IgnoreCurrent()
			round(30)
			if err := leaked(before); err != nil {
				t.Error(err)
			}
		}},
	})
}

// TestPredecessorWatchAfterBlip: watches died of a lost connection, or came back without what had happened meanwhile.
// (traefik #2068 #8163 #6832, libkv #107)
func TestPredecessorWatchAfterBlip(t *testing.T) {
	onProxies(t, func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
		src := kv.NewTyped(s, codec.String(), "")
		for _, key := range []string{"d/kept", "d/changed", "d/deleted", "d/recreated"} {
			put(t, ctx, direct, key, "before")
		}
		w := ok[*kv.Watch[string]](t)(src.Watch(ctx, "d", kv.FromSnapshot()))
		defer w.Close()
		state := map[string]string{}
		follow := func(until func() bool) {
			t.Helper()
			for !until() {
				ev := ok[kv.Event[string]](t)(w.Next(ctx))
				switch ev.Kind {
				case kv.Deleted:
					if _, there := state[ev.Key]; !there {
						t.Errorf("%q was deleted twice", ev.Key)
					}
					delete(state, ev.Key)
				case kv.Existing, kv.Created, kv.Updated:
					if _, there := state[ev.Key]; there != (ev.Kind == kv.Updated) {
						t.Errorf("%v of %q, which was there: %v", ev.Kind, ev.Key, there)
					}
					state[ev.Key] = ev.Value
				}
			}
		}
		follow(func() bool { return len(state) == 4 })
		for round := range 3 {
			p.Refuse(true)
			p.Cut()
			mark := fmt.Sprint("after ", round)
			put(t, ctx, direct, "d/changed", mark)
			if err := direct.Delete(ctx, "d/recreated"); err != nil {
				t.Fatal(err)
			}
			put(t, ctx, direct, "d/recreated", mark)
			if round == 0 {
				if err := direct.Delete(ctx, "d/deleted"); err != nil {
					t.Fatal(err)
				}
			}
			put(t, ctx, direct, "d/new", mark)
			p.Refuse(false)
			follow(func() bool {
				_, deleted := state["d/deleted"]
				return state["d/new"] == mark && state["d/changed"] == mark && state["d/recreated"] == mark && !deleted
			})
			if state["d/kept"] != "before" || len(state) != 4 {
				t.Errorf("the watch shows %v", state)
			}
		}
	})
}

// TestPredecessorWatchSpins: while a server was away its watches made requests without a pause. (traefik #9212 #566) The
// worst case is a port that takes each connection and hangs up, as a load balancer does whose servers are gone.
func TestPredecessorWatchSpins(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, store := range testserver.Stores() {
		all.Go(func() { t.Run(string(store), func(t *testing.T) { watchSpins(t, store) }) })
	}
}

func watchSpins(t *testing.T, store testserver.Store) {
	srv := servers.Shared(t, testserver.Spec{Store: store})
	away := testserver.NewProxy(t, srv.Addrs()[0])
	front := testserver.NewProxy(t, away.Addr())
	root := testserver.UniqueName(t)
	s := ok[*kv.Store](t)(openURL(t, drivers, storeURL(front.Addr(), store, root, testserver.Credentials{}, nil)))
	direct := ok[*kv.Store](t)(openURL(t, drivers, storeURL(srv.Addrs()[0], store, root, testserver.Credentials{}, nil)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*within)
	defer cancel()
	var watches []*kv.Watch[[]byte]
	for i := range 5 {
		w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, fmt.Sprint("d/", i), kv.FromSnapshot()))
		defer w.Close()
		nextKey(t, ctx, w, kv.Synced, "")
		watches = append(watches, w)
	}
	away.Refuse(true)
	before := front.Traffic().Connections
	away.Cut()
	timer := time.NewTimer(4 * time.Second)
	defer timer.Stop()
	<-timer.C
	attempts := front.Traffic().Connections - before
	t.Logf("%d connections in 4 s", attempts)
	if attempts > 100 { // 5 a second for each watch
		t.Errorf("%d connections in 4 s", attempts)
	}
	// All of them are alive, and soon back.
	away.Refuse(false)
	for i, w := range watches {
		key := fmt.Sprintf("d/%d/k", i)
		put(t, ctx, direct, key, "v")
		for {
			ev := ok[kv.Event[[]byte]](t)(w.Next(ctx))
			if ev.Kind == kv.Created && ev.Key == key {
				break
			}
			if !slices.Contains([]kv.Kind{kv.Resynced, kv.Synced}, ev.Kind) {
				t.Errorf("%v of %q", ev.Kind, ev.Key)
			}
		}
	}
}

// TestPredecessorEventIsADelta: each update made the whole tree be read. (traefik #12180) Here an event costs what changed,
// except on Consul, whose blocking queries return everything below the prefix.
func TestPredecessorEventIsADelta(t *testing.T) {
	const keys, changes = 300, 10
	onProxies(t, func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
		value := make([]byte, 256)
		for i := 0; i < keys; i += 50 {
			tx := direct.Txn()
			for j := i; j < i+50; j++ {
				tx.Put(fmt.Sprintf("d/%d/%03d", j%10, j), value)
			}
			ok[kv.TxnResult](t)(tx.Commit(ctx))
		}
		w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "d", kv.FromSnapshot()))
		defer w.Close()
		for {
			if ev := ok[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Kind == kv.Synced {
				break
			}
		}
		before := p.Traffic()
		for i := range changes {
			key := fmt.Sprintf("d/%d/%03d", i%10, i)
			put(t, ctx, direct, key, "changed")
			nextKey(t, ctx, w, kv.Updated, key)
		}
		after := p.Traffic()
		each := after.Sub(before).ReplyBytes / changes
		t.Logf("%d bytes from the server for a change", each)
		if limit := int64(2048); direct.Capabilities().Name != "consul" && each > limit {
			t.Errorf("%d bytes for a change of 7, in a tree of %d", each, keys*256)
		}
	})
}
