package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// TestPredecessorLists is about lists and deletes that reached too far, or not far enough.
func TestPredecessorLists(t *testing.T) {
	onDefects(t, []defect{
		{"libkv: foo lists and deletes foobar", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			for _, key := range []string{"foo", "foo/bar", "foo/bar/baz", "foobar", "foobar/x", "foo-", "fo"} {
				put(t, ctx, s, key, "v")
			}
			for _, prefix := range []string{"foo", "/foo", "foo/", "/foo//"} {
				if got := keysOf(t, s.List(ctx, prefix)); !slices.Equal(got, []string{"foo/bar", "foo/bar/baz"}) {
					t.Errorf("%q lists %q", prefix, got)
				}
			}
			w := ok[*kv.Watch[[]byte]](t)(s.Watch(ctx, "foo"))
			defer w.Close()
			put(t, ctx, s, "foobar/x", "changed")
			put(t, ctx, s, "foo", "changed")
			if n, err := open().DeletePrefix(ctx, "foo"); n != 2 || err != nil {
				t.Errorf("deleted %d, %v", n, err)
			}
			var gone []string
			for range 2 {
				ev := ok[kv.Event[[]byte]](t)(w.Next(ctx))
				if ev.Kind != kv.Deleted {
					t.Errorf("%v of %q", ev.Kind, ev.Key)
				}
				gone = append(gone, ev.Key)
			}
			if slices.Sort(gone); !slices.Equal(gone, []string{"foo/bar", "foo/bar/baz"}) {
				t.Errorf("events of %q", gone)
			}
			if got := keysOf(t, s.List(ctx, "")); !slices.Equal(got, []string{"fo", "foo", "foo-", "foobar", "foobar/x"}) {
				t.Errorf("left are %q", got)
			}
		}},
		{"libkv: an empty list is an error", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "key", "has nothing below it")
			for _, prefix := range []string{"nothing", "key", "deep/er/still"} {
				for _, opts := range [][]kv.ListOption{nil, {kv.Children()}, {kv.KeysOnly()}, {kv.Limit(1)}} {
					if es, err := kv.Collect(s.List(ctx, prefix, opts...)); len(es) != 0 || err != nil {
						t.Errorf("%q: %v, %v", prefix, es, err)
					}
				}
				if n, err := s.DeletePrefix(ctx, prefix); n != 0 || err != nil {
					t.Errorf("delete below %q: %d, %v", prefix, n, err)
				}
			}
		}},
		{"bbolt: a delete of the tree \"\" never returns and holds the write lock", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			put(t, ctx, s, "d/a", "v")
			put(t, ctx, s, "b", "v")
			whole := kv.New(s.Backend())
			if _, err := whole.DeletePrefix(ctx, ""); !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("of a whole store: %v", err)
			}
			put(t, ctx, open(), "c", "writes go on")
			if n, err := s.DeletePrefix(ctx, ""); n != 3 || err != nil {
				t.Errorf("of a view: %d, %v", n, err)
			}
			put(t, ctx, open(), "c", "writes go on")
		}},
		{"redis: a delete of the tree \"*\" emptied the database", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			kept := []string{"*", "a", "a*b", "a/b", "axb", "[a]", "a?"}
			for _, key := range append(slices.Clone(kept), "*/x", "a*/x", "[a]/x") {
				put(t, ctx, s, key, "v")
			}
			for _, prefix := range []string{"*", "a*", "[a]", "?", "[a-z]", "\\"} {
				want := int64(0)
				if prefix == "*" || prefix == "a*" || prefix == "[a]" {
					want = 1
				}
				if es := keysOf(t, s.List(ctx, prefix)); int64(len(es)) != want {
					t.Errorf("%q lists %q", prefix, es)
				}
				if n, err := s.DeletePrefix(ctx, prefix); n != want || err != nil {
					t.Errorf("%q: %d, %v", prefix, n, err)
				}
			}
			slices.Sort(kept)
			if got := keysOf(t, open().List(ctx, "")); !slices.Equal(got, kept) {
				t.Errorf("left are %q, want %q", got, kept)
			}
		}},
		{"zookeeper: a delete of a tree fails on nested keys", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			var want int64
			for i := range 40 {
				for _, key := range []string{"d/%d", "d/%d/a/b/c", "d/%d/a"} {
					put(t, ctx, s, fmt.Sprintf(key, i%4)+fmt.Sprint("/", i), "v")
					want++
				}
			}
			if n, err := open().DeletePrefix(ctx, "d"); n != want || err != nil {
				t.Errorf("deleted %d of %d, %v", n, want, err)
			}
			if got := keysOf(t, s.List(ctx, "")); len(got) > 0 {
				t.Errorf("left are %q", got)
			}
		}},
		{"traefik #11416: a leading slash is lost or added", func(t *testing.T, ctx context.Context, s *kv.Store, open func() *kv.Store) {
			// Of keys it means nothing, and they come back in one form. Of the root it is the user's choice: see
			// TestInteropExistingTree.
			if e := put(t, ctx, s, "/a//b/", "v"); e.Key != "a/b" {
				t.Errorf("written as %q", e.Key)
			}
			if got := keysOf(t, s.List(ctx, "/a/")); !slices.Equal(got, []string{"a/b"}) {
				t.Errorf("listed %q", got)
			}
		}},
	})
}

// TestPredecessorSlowList: ZooKeeper's lists of 2,000 keys took one request after another. Here one is many times faster
// than so many gets, wherever gets cross a network.
func TestPredecessorSlowList(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			throughProxy(t, store, func(t *testing.T, ctx context.Context, p *testserver.Proxy, s, direct *kv.Store) {
				const keys, gets = 2000, 20
				value := make([]byte, 256)
				for i := 0; i < keys; i += 50 {
					tx := direct.Txn()
					for j := i; j < i+50; j++ {
						tx.Put(fmt.Sprintf("d/%d/%04d", j%10, j), value)
					}
					ok[kv.TxnResult](t)(tx.Commit(ctx))
				}
				p.Latency(time.Millisecond) // each way, as in a data centre: what counts are round trips
				var list, sequential time.Duration
				for range 5 { // a machine under load is slow at both, and at decoding more
					start := time.Now()
					for i := range gets {
						ok[kv.Entry[[]byte]](t)(s.Get(ctx, fmt.Sprintf("d/%d/%04d", i%10, i)))
					}
					sequential = time.Since(start) * keys / gets
					start = time.Now()
					if n := len(ok[[]kv.Entry[[]byte]](t)(kv.Collect(s.List(ctx, "d")))); n != keys {
						t.Fatalf("%d keys", n)
					}
					list = time.Since(start)
					t.Logf("a list took %v, so many gets %v: %.0f times as long", list, sequential, float64(sequential)/float64(list))
					if list*3 <= sequential {
						return
					}
				}
				t.Errorf("a list took %v, so many gets %v", list, sequential)
			})
		})
	}
}

// predecessorTTLs is about keys that outlived their time, or did not live for it.
func predecessorTTLs(t *testing.T) {
	onEveryURLAtOnce(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, other := open(t), open(t)
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()

		// Redis: a compare-and-set with a TTL under a second never expired. It is refused.
		seen := put(t, ctx, s, "refused", "v")
		for _, ttl := range []time.Duration{1, time.Millisecond, 999 * time.Millisecond} {
			if _, err := s.Update(ctx, "refused", nil, seen.Revision, kv.TTL(ttl)); !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("update with a TTL of %v: %v", ttl, err)
			}
		}
		if e, err := other.Get(ctx, "refused"); err != nil || e.Revision != seen.Revision {
			t.Errorf("the refused updates changed %+v, %v", e, err)
		}

		w := ok[*kv.Watch[[]byte]](t)(other.Watch(ctx, ""))
		defer w.Close()
		start, stalls := time.Now(), pace.Watch(t)
		// Consul: any TTL under 20 s failed, since it was halved. ZooKeeper: 1 s outlived itself. bbolt: ignored.
		var short []string
		for name, do := range map[string]func(key string) (kv.Entry[[]byte], error){
			"put": func(key string) (kv.Entry[[]byte], error) { return s.Put(ctx, key, []byte("v"), kv.TTL(time.Second)) },
			"create": func(key string) (kv.Entry[[]byte], error) {
				return s.Create(ctx, key, []byte("v"), kv.TTL(time.Second))
			},
			"update": func(key string) (kv.Entry[[]byte], error) {
				return s.Update(ctx, key, []byte("v"), put(t, ctx, s, key, "w").Revision, kv.TTL(time.Second))
			},
			"modify": func(key string) (kv.Entry[[]byte], error) {
				return s.Modify(ctx, key, func(e *kv.Entry[[]byte]) error { return nil }, kv.Upsert(), kv.TTL(time.Second))
			},
			"commit": func(key string) (kv.Entry[[]byte], error) {
				tx := s.Txn()
				tx.Put(key, []byte("v"), kv.TTL(time.Second))
				res, err := tx.Commit(ctx)
				if err != nil {
					return kv.Entry[[]byte]{}, err
				}
				return kv.Entry[[]byte]{Expires: res.Entries[0].Expires}, nil
			},
		} {
			e := ok[kv.Entry[[]byte]](t)(do("short/" + name))
			if left := time.Until(e.Expires); left > 3*time.Second || left < -stalls.Since(start) {
				t.Errorf("%s with a TTL of 1 s expires in %v", name, left)
			}
			short = append(short, "short/"+name)
		}
		written := time.Now()
		// Consul: a put without a TTL over one with a TTL still expired.
		put(t, ctx, s, "cleared", "1", kv.TTL(time.Second))
		put(t, ctx, s, "cleared", "2")
		// swarm #2153: half of what was asked for.
		put(t, ctx, s, "halved", "v", kv.TTL(5*time.Second))
		// A key that expired and one that came after it are two: a condition on the first does not hold for the second.
		for _, key := range short {
			if there, err := s.Exists(ctx, key); err != nil || !there && time.Since(start) < time.Second {
				t.Errorf("%q is gone before its time: %v, %v", key, there, err)
			}
		}
		slack := s.Capabilities().TTLSlack
		gone := map[string]bool{}
		for len(gone) < len(short) {
			ev := ok[kv.Event[[]byte]](t)(w.Next(ctx))
			if ev.Kind == kv.Deleted {
				gone[ev.Key] = true
			}
		}
		if took := time.Since(written); took > 2*time.Second+slack+time.Second+stalls.Since(start) { // etcd rounds a second up to two
			t.Errorf("the last event came %v after the last put with a TTL of 1 s", took)
		}
		for _, key := range short {
			if there, err := other.Exists(ctx, key); there || err != nil || !gone[key] {
				t.Errorf("%q: there %v, %v; an event %v", key, there, err, gone[key])
			}
		}
		if e, err := other.Get(ctx, "cleared"); err != nil || string(e.Value) != "2" || !e.Expires.IsZero() {
			t.Errorf("cleared: %+v, %v", e, err)
		}
		if there, err := other.Exists(ctx, "halved"); err != nil || !there && time.Since(written) < 5*time.Second {
			t.Errorf("halved: %v, %v", there, err)
		}
		if _, err := s.Create(ctx, short[0], []byte("again")); err != nil {
			t.Errorf("create of what has expired: %v", err)
		}
	})
}
