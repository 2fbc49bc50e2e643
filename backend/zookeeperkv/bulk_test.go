package zookeeperkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

const opExists = 3

// fill makes keys with values of size bytes, n in each of dirs directories, as another program would.
func fill(t testing.TB, s *Store, dir string, dirs, n, size int) (keys []string) {
	t.Helper()
	var ops []any
	commit := func() {
		if len(ops) > 0 {
			if _, _, err := s.multi(t.Context(), s.link, ops, nil); err != nil {
				t.Fatal(err)
			}
			ops = ops[:0]
		}
	}
	create := func(path string, value []byte) {
		ops = append(ops, &zk.CreateRequest{Path: path, Data: value, Acl: s.o.ACL})
		if len(ops)*(size+150) > 512<<10 {
			commit()
		}
	}
	if err := s.create(t.Context(), s.link, s.root, nil); err != nil {
		t.Fatal(err)
	}
	for d := range dirs {
		dir := fmt.Sprintf("%s%03d", dir, d)
		create(s.root+"/"+dir, nil)
		for i := range n {
			key := fmt.Sprintf("%s/key-%05d", dir, i)
			keys = append(keys, key)
			create(s.root+"/"+key, bytes.Repeat([]byte{byte(i)}, size))
		}
	}
	commit()
	return keys
}

// bulkStores are a store on a server that answers multiRead, and on one that does not.
func bulkStores(t *testing.T) map[string]func(t *testing.T) (*Store, *proxy) {
	open := func(old bool) func(t *testing.T) (*Store, *proxy) {
		return func(t *testing.T) (*Store, *proxy) {
			p := newProxy(t, shared(t))
			p.age(old)
			return open(t, p.addr(), testserver.UniqueName(t), Options{}), p
		}
	}
	return map[string]func(t *testing.T) (*Store, *proxy){"multiRead": open(false), "before 3.6": open(true)}
}

// Lists and GetMany bring the same on servers old and new, whatever the shape of the tree.
func TestReadTogether(t *testing.T) {
	for name, opened := range bulkStores(t) {
		t.Run(name, func(t *testing.T) {
			s, p := opened(t)
			keys := fill(t, s, "d", 7, 150, 20)
			keys = append(keys, fill(t, s, "few", 90, 2, 3)...)
			for _, key := range []string{"d000", "d003/key-00007/below/it", "d003/key-00007-", "e", "e/\U0001F600/f"} {
				put(t, s, key, key)
				keys = append(keys, key)
			}
			slices.Sort(keys)
			keys = slices.Compact(keys)
			if got := listed(t, s, "", backend.ListOptions{}); !slices.Equal(got, keys) {
				t.Errorf("%d keys, want %d", len(got), len(keys))
			}
			if got := listed(t, s, "", backend.ListOptions{KeysOnly: true, GetOptions: backend.GetOptions{Stale: true}}); !slices.Equal(got, keys) {
				t.Errorf("%d keys without values, want %d", len(got), len(keys))
			}
			for _, at := range []int{0, 1, 63, 64, 65, 500, len(keys) - 1} {
				got := listed(t, s, "", backend.ListOptions{After: keys[at], Limit: 70})
				if want := keys[at+1 : min(at+71, len(keys))]; !slices.Equal(got, want) {
					t.Errorf("after %s: %q", keys[at], got)
				}
			}
			asked := append([]string{"no/such", "d001"}, keys...)
			entries, err := s.GetMany(t.Context(), asked, backend.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for i, e := range entries {
				one, err := s.Get(t.Context(), asked[i], backend.GetOptions{Stale: true})
				if i < 2 {
					if e.Revision != 0 || !errors.Is(err, backend.ErrNotFound) {
						t.Errorf("%s: %+v, %v", asked[i], e, err)
					}
					continue
				}
				if i%50 == 0 && (err != nil || e.Revision != one.Revision || e.Created != one.Created || !bytes.Equal(e.Value, one.Value) || e.Key != one.Key) {
					t.Errorf("%s: %+v, want %+v, %v", asked[i], e, one, err)
				}
			}
			if asked := p.of(opMultiRead); name == "before 3.6" && asked != 1 {
				t.Errorf("%d multiReads to a server that knows none: one is enough to learn that", asked)
			}
		})
	}
}

// To find out that a server knows no multiRead costs the store's own connection nothing.
func TestOldServerIsAskedAside(t *testing.T) {
	p := newProxy(t, shared(t))
	p.age(true)
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	fill(t, s, "d", 1, 10, 10)
	before, _ := s.link.session.now()
	for range 3 {
		listed(t, s, "", backend.ListOptions{})
	}
	if after, up := s.link.session.now(); after != before || !up {
		t.Errorf("the connection was number %d and is %d, up: %v", before, after, up)
	}
	if n := p.of(opMultiRead); n != 1 {
		t.Errorf("%d multiReads", n)
	}
	// The server is replaced by a newer one: the connection is a new one, and it is asked again.
	p.age(false)
	p.cut()
	listed(t, s, "", backend.ListOptions{})
	if n := p.of(opMultiRead); n < 3 {
		t.Errorf("%d multiReads after the server has become newer", n)
	}
	// And by an older one again, which breaks the connection once. The list is complete all the same.
	p.age(true)
	if got := listed(t, s, "", backend.ListOptions{}); len(got) != 10 {
		t.Errorf("%d keys", len(got))
	}
}

// A server that takes no second connection is not asked at every list.
func TestServerCannotBeAsked(t *testing.T) {
	p := testserver.NewProxy(t, shared(t))
	s := open(t, p.Addr(), testserver.UniqueName(t), Options{DialTimeout: 300 * time.Millisecond})
	keys := fill(t, s, "d", 1, 10, 10)
	p.Refuse(true)
	for range 3 {
		if got := listed(t, s, "", backend.ListOptions{}); !slices.Equal(got, keys) {
			t.Errorf("%q", got)
		}
	}
	pace.Best(t, 3*time.Second, "to list 20 times", func() time.Duration { // to ask takes the dial timeout
		return pace.Timed(func() {
			for range 20 {
				listed(t, s, "", backend.ListOptions{})
			}
		})
	})
}

// What is read together is bounded in bytes, also where small values are followed by large ones.
func TestLargeValuesAreReadInSmallPages(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	keys := fill(t, s, "d", 1, 70, 10)
	large := s.Capabilities().MaxValueBytes
	for i := range 12 {
		key := fmt.Sprintf("d000/large-%02d", i)
		put(t, s, key, strings.Repeat("x", large))
		keys = append(keys, key)
	}
	check := func(e backend.Entry) {
		want := 10
		if strings.Contains(e.Key, "large") {
			want = large
		}
		if len(e.Value) != want {
			t.Errorf("%s has %d bytes", e.Key, len(e.Value))
		}
	}
	var got []string
	for e, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Key)
		check(e)
	}
	if !slices.Equal(got, keys) {
		t.Errorf("%d keys, want %d", len(got), len(keys))
	}
	entries, err := s.GetMany(t.Context(), keys, backend.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		check(e)
	}
	if epoch, _ := s.link.session.now(); epoch != 1 {
		t.Errorf("the connection is number %d", epoch)
	}
	// A list of keys only stops asking for values when they are seen to be large.
	before := p.of(opExists)
	if got := listed(t, s, "d000", backend.ListOptions{KeysOnly: true, After: "d000/large-00"}); len(got) != 11 {
		t.Errorf("%d keys", len(got))
	}
	if p.of(opExists) == before {
		t.Error("all values were asked for")
	}
}

// An expiry is seen in what is read together, also while values and stamps are being written.
func TestStampsAreReadTogether(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, other := open(t, addr, root, Options{}), open(t, addr, root, Options{})
	c := raw(t, addr)
	ctx := t.Context()
	var keys []string
	set := func(s *Store, key string, ttl time.Duration) {
		if _, err := s.Put(ctx, key, []byte("v"), backend.PutOptions{TTL: ttl}); err != nil {
			t.Error(err)
		}
	}
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("d/%02d", i))
		set(s, keys[i], time.Hour)
	}
	put(t, s, "d/plain", "v")
	put(t, s, "d/over", "v")
	set(s, "d/over", time.Hour)
	if _, err := c.Set("/"+root+"/d/over", []byte("foreign"), -1); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				set(other, keys[i%len(keys)], time.Hour)
			}
		}
	})
	for i := range 20 {
		n := 0
		see := func(e backend.Entry) {
			n++
			if foreign := e.Key == "d/over" || e.Key == "d/plain"; e.Expires.IsZero() != foreign {
				t.Errorf("%s expires %v", e.Key, e.Expires)
			}
		}
		if i%2 == 0 {
			for e, err := range s.List(ctx, "", backend.ListOptions{GetOptions: backend.GetOptions{Stale: i%4 == 0}}) {
				if err != nil {
					t.Fatal(err)
				}
				see(e)
			}
		} else {
			entries, err := s.GetMany(ctx, append(keys, "d/over", "d/plain"), backend.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				see(e)
			}
		}
		if n != len(keys)+2 {
			t.Errorf("%d keys", n)
		}
	}
	close(done)
	wg.Wait()
}

// A node that may not be read fails the list where it comes, and GetMany.
func TestForbiddenAmongOthers(t *testing.T) {
	for name, opened := range bulkStores(t) {
		t.Run(name, func(t *testing.T) {
			s, _ := opened(t)
			fill(t, s, "d", 1, 10, 10)
			c := raw(t, shared(t))
			if err := c.AddAuth("digest", []byte("u:p")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.SetACL(s.root+"/d000/key-00005", zk.AuthACL(zk.PermAll), -1); err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
				if err != nil {
					if !errors.Is(err, backend.ErrPermission) || n != 5 {
						t.Errorf("after %d keys: %v", n, err)
					}
					break
				}
				n++
			}
			keys := make([]string, 10)
			for i := range keys {
				keys[i] = fmt.Sprintf("d000/key-%05d", i)
			}
			if _, err := s.GetMany(t.Context(), keys, backend.GetOptions{}); !errors.Is(err, backend.ErrPermission) {
				t.Errorf("GetMany: %v", err)
			}
			if err := c.Delete(s.root+"/d000/key-00005", -1); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Connections that break under a list cost it time. The credentials come first on each new one: nobody is refused.
func TestReadTogetherOverBrokenConnections(t *testing.T) {
	p := newProxy(t, shared(t))
	s, err := openURL(t, Driver{}, "zk://alice:secret@"+p.addr()+"/"+testserver.UniqueName(t))
	if err != nil {
		t.Fatal(err)
	}
	keys := fill(t, s, "d", 3, 100, 50)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if i%100 == 0 {
				p.cut()
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	})
	begin := time.Now()
	for stale := false; time.Since(begin) < 3*time.Second; stale = !stale {
		var got []string
		for e, err := range s.List(ctx, "", backend.ListOptions{GetOptions: backend.GetOptions{Stale: stale}}) {
			if err != nil {
				if !errors.Is(err, backend.ErrUnavailable) {
					t.Fatal(err)
				}
				got = keys // a list does not begin again
				break
			}
			got = append(got, e.Key)
		}
		if !slices.Equal(got, keys) {
			t.Fatalf("%d keys, want %d", len(got), len(keys))
		}
	}
	cancel()
	wg.Wait()
}

// Whatever comes, decoding ends with an error and not with a panic, and takes no memory that the answer does not have.
func TestGarbledAnswers(t *testing.T) {
	ops := []readOp{{path: "/a"}, {path: "/b", children: true}, {path: "/c"}}
	var good []byte
	good = append(good, 0, 0, 0, opGetData, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'v')
	good = append(good, make([]byte, 68)...)
	good = append(good, 0, 0, 0, opGetChildren, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'x', 'y')
	good = append(good, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0x9b, 0xff, 0xff, 0xff, 0x9b)
	results, err := decodeResults(good, ops)
	if err != nil || string(results[0].data) != "v" || !slices.Equal(results[1].names, []string{"xy"}) || results[2].code != codeNoNode {
		t.Fatalf("%+v, %v", results, err)
	}
	for n := range good {
		if _, err := decodeResults(good[:n], ops); err == nil {
			t.Errorf("the first %d bytes are taken for an answer", n)
		}
		bad := bytes.Clone(good)
		bad[n] ^= 0x80
		_, _ = decodeResults(bad, ops)
	}
}

// What multiRead has shown to a session no server may take back to which it goes on: a list that is made on one server
// would show what the watch beside it, on the next, is yet to tell.
func TestReconnectNoOlderThanAsked(t *testing.T) {
	p := newProxy(t, shared(t))
	root := testserver.UniqueName(t)
	s, other := open(t, p.addr(), root, Options{}), open(t, shared(t), root, Options{})
	keys := fill(t, s, "d", 1, 10, 10)
	listed(t, s, "", backend.ListOptions{}) // the server has been asked what it can
	rev := put(t, other, keys[0], "new").Revision
	asked := p.of(opMultiRead)
	entries, err := s.GetMany(t.Context(), keys, backend.GetOptions{Stale: true})
	if err != nil {
		t.Fatal(err)
	}
	if entries[0].Revision < rev || p.of(opMultiRead) == asked {
		t.Fatalf("revision %d, want %d, after %d requests", entries[0].Revision, rev, p.of(opMultiRead)-asked)
	}
	p.cut()
	if _, err := s.Get(t.Context(), keys[1], backend.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if seen := p.presented(); seen < int64(rev) {
		t.Errorf("connected again as one that has seen %d, and has seen %d", seen, rev)
	}
}
