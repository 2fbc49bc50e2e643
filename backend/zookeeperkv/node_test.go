package zookeeperkv

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

func put(t testing.TB, s backend.Store, key, value string) backend.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), backend.PutOptions{})
	if err != nil {
		t.Fatalf("Put %q: %v", key, err)
	}
	return e
}

func listed(t testing.TB, s backend.Store, prefix string, o backend.ListOptions) []string {
	t.Helper()
	var all []string
	for e, err := range s.List(t.Context(), prefix, o) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Key)
	}
	return all
}

func nodeAt(t testing.TB, c *zk.Conn, path string) (data []byte, there bool) {
	t.Helper()
	data, _, err := c.Get(path)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		t.Fatal(err)
	}
	return data, err == nil
}

// A node without data is a directory; one with empty data, such as zkCli's "create /a" makes, is a key.
func TestDirectoryOrEmptyKey(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, c := open(t, addr, root, Options{}), raw(t, addr)
	put(t, s, "a/b/c", "v")
	for _, dir := range []string{"", "/a", "/a/b"} {
		if data, there := nodeAt(t, c, "/"+root+dir); !there || data != nil {
			t.Errorf("%q is %q, %v; want a node without data", dir, data, there)
		}
	}
	if _, err := s.Get(t.Context(), "a", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("a directory is a key: %v", err)
	}
	if _, err := c.Create("/"+root+"/cli", []byte{}, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "")
	if got := listed(t, s, "", backend.ListOptions{}); !slices.Equal(got, []string{"a", "a/b/c", "cli"}) {
		t.Errorf("List: %q", got)
	}
	if err := s.Delete(t.Context(), "a", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if data, there := nodeAt(t, c, "/"+root+"/a"); !there || data != nil {
		t.Errorf("a deleted key that has children is %q, %v", data, there)
	}
}

// Emptied directories go with the key that was in them, in the same Multi; the root stays.
func TestEmptiedDirectoriesGo(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, c := open(t, addr, root, Options{}), raw(t, addr)
	put(t, s, "a/b/c/d", "v")
	put(t, s, "a/x", "v")
	if err := s.Delete(t.Context(), "a/b/c/d", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, there := nodeAt(t, c, "/"+root+"/a/b"); there {
		t.Error("the emptied directory a/b is still there")
	}
	if _, there := nodeAt(t, c, "/"+root+"/a/x"); !there {
		t.Error("a key in a directory above is gone")
	}
	if n, err := s.DeletePrefix(t.Context(), ""); err != nil || n != 1 {
		t.Fatalf("DeletePrefix: %d, %v", n, err)
	}
	names, _, err := c.Children("/" + root)
	if err != nil || len(names) > 0 {
		t.Errorf("below the root there still is %q, %v", names, err)
	}
}

// A key that goes together with all that is below it leaves no node behind, although there are directories in between.
func TestKeyGoesWithWhatIsBelow(t *testing.T) {
	addr := shared(t)
	s, c := open(t, addr, testserver.UniqueName(t), Options{}), raw(t, addr)
	for _, key := range []string{"a", "a/b/c", "a/d/e/f"} {
		put(t, s, key, "v")
	}
	if n, err := s.DeletePrefix(t.Context(), ""); err != nil || n != 3 {
		t.Fatalf("DeletePrefix: %d, %v", n, err)
	}
	pace.Eventually(t, 10*time.Second, "nothing below the root", func() bool {
		names, _, err := c.Children(s.root)
		return err == nil && len(names) == 0
	})
}

// Of a key and the one below it, deleted at the same time, no node stays, whichever goes first.
func TestKeyAndTheOneBelowItGoTogether(t *testing.T) {
	const opExists = 3
	root := testserver.UniqueName(t)
	p := newProxy(t, shared(t))
	slow, s, c := open(t, p.addr(), root, Options{}), open(t, shared(t), root, Options{}), raw(t, shared(t))
	drop := func(s *Store, key string) {
		if err := s.Delete(t.Context(), key, backend.DeleteOptions{}); err != nil {
			t.Errorf("Delete %q: %v", key, err)
		}
	}
	fill := func() {
		put(t, s, "k", "v")
		put(t, s, "k/below", "v")
	}
	for _, keys := range [][2]string{{"k", "k/below"}, {"k/below", "k"}} {
		fill()
		drop(slow, "k/below") // so that it knows the guards as they are
		drop(slow, "k")
		fill()
		settle(t, p)
		before := p.of(opExists)
		p.delay(200 * time.Millisecond)
		var wg sync.WaitGroup
		wg.Go(func() { drop(slow, keys[0]) })
		testserver.Eventually(t, time.Minute, "the first has looked", func() bool { return p.of(opExists) > before })
		drop(s, keys[1])
		s.tidying.Wait()
		p.delay(0)
		wg.Wait()
		pace.Eventually(t, 10*time.Second, "nothing below the root", func() bool {
			names, _, err := c.Children(s.root)
			return err == nil && len(names) == 0
		})
	}
}

// Writers that fill and empty one directory at the same time lose no key.
func TestDirectoryIsContended(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	var wg sync.WaitGroup
	for i := range 4 {
		s := open(t, addr, root, Options{})
		wg.Go(func() {
			key := fmt.Sprintf("deep/down/%d", i)
			for n := range 25 {
				if _, err := s.Put(t.Context(), key, []byte{byte(n)}, backend.PutOptions{}); err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				e, err := s.Get(t.Context(), key, backend.GetOptions{})
				if err != nil || len(e.Value) != 1 || e.Value[0] != byte(n) {
					t.Errorf("Get after Put: %v, %v", e, err)
					return
				}
				if err := s.Delete(t.Context(), key, backend.DeleteOptions{}); err != nil {
					t.Errorf("Delete: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	c := raw(t, addr)
	pace.Eventually(t, 10*time.Second, "no directory is left", func() bool {
		left, _, err := c.Children("/" + root)
		if err != nil {
			t.Fatal(err)
		}
		return len(left) == 0
	})
}

// ZooKeeper compares data versions, and those start over when a node is made again. Between the read and the Multi of a
// conditional write another client deletes and recreates the key so that it has the same version.
func TestGuardTellsOfRecreation(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, other := open(t, addr, root, Options{}), open(t, addr, root, Options{})
	e := put(t, s, "k", "old")
	tx := &txn{s: s, targets: map[string]*target{}}
	ctx := t.Context()
	err := tx.take(backend.Txn{
		Checks: []backend.Check{{If: backend.AtRevision, Key: "k", Revision: e.Revision}},
		Writes: []backend.Write{{Key: "k", Value: []byte("stale")}},
	})
	if err == nil {
		err = s.prepare(ctx)
	}
	if err == nil {
		err = tx.survey(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.failed(); err != nil {
		t.Fatal(err)
	}
	if err := other.Delete(ctx, "k", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	put(t, other, "k", "new")
	n, err := s.get(ctx, s.link, s.space.Name("k"))
	if err != nil || n.stat.Version != tx.order[0].record.stat.Version {
		t.Fatalf("the test proves nothing: version %d, %v", n.stat.Version, err)
	}
	if err := tx.build(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.multi(ctx, s.link, tx.ops, nil); !errors.Is(err, zk.ErrBadVersion) {
		t.Fatalf("the stale write: %v", err)
	}
	if got, _ := s.Get(ctx, "k", backend.GetOptions{}); string(got.Value) != "new" {
		t.Errorf("k is %q", got.Value)
	}
}

// Plain reads and writes need no bookkeeping; the rest refuses what a later version wrote.
func TestNewerSchemaIsRefused(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	c := raw(t, addr)
	if _, err := c.Create("/"+root+"=kv", []byte("polykv 2"), 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	s := open(t, addr, root, Options{})
	put(t, s, "k", "v") // needs no bookkeeping
	_, err := s.Put(t.Context(), "k", nil, backend.PutOptions{If: backend.Present})
	if !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("a conditional put: %v", err)
	}
	if _, err := s.Contend(t.Context(), "l", backend.ContendOptions{}); !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("Contend: %v", err)
	}
}

// The bookkeeping of a key that is overwritten without a TTL is cleared, and nothing is left when all keys have gone.
func TestBookkeepingIsTidy(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, c := open(t, addr, root, Options{}), raw(t, addr)
	ctx := t.Context()
	for i := range 10 {
		key := fmt.Sprintf("k%d", i)
		if _, err := s.Put(ctx, key, nil, backend.PutOptions{TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(ctx, key, nil, backend.PutOptions{TTL: 2 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, key, backend.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := stamps(t, c, s); n != 0 {
		t.Errorf("%d stamps of keys that are gone", n)
	}
}

// What is left of the expiry of a key that was overwritten without a TTL goes when that time has come, and the key stays.
func TestExpiryOfAnOverwrittenKeyGoes(t *testing.T) {
	addr := shared(t)
	s, c := open(t, addr, testserver.UniqueName(t), Options{}), raw(t, addr)
	if _, err := s.Put(t.Context(), "k", nil, backend.PutOptions{TTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "stays")
	pace.Eventually(t, 15*time.Second, "no stamp is left", func() bool { return stamps(t, c, s) == 0 })
	if e, err := s.Get(t.Context(), "k", backend.GetOptions{}); err != nil || string(e.Value) != "stays" || !e.Expires.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
}

// A stamp that is extended just when the reaper is through with its second is listed under the second that it is for now.
func TestStampThatIsExtendedWhileItsSecondIsReaped(t *testing.T) {
	addr := shared(t)
	s, c := open(t, addr, testserver.UniqueName(t), Options{}), raw(t, addr)
	ctx := t.Context()
	for _, ttl := range []time.Duration{time.Hour, 2 * time.Hour} {
		if _, err := s.Put(ctx, "k", nil, backend.PutOptions{TTL: ttl}); err != nil {
			t.Fatal(err)
		}
	}
	at := slotOf(s.root + "/k")
	old, err := s.readStamp(ctx, s.link, s.root+"/k")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.reaper.unlist(ctx, old.due, at.bucket+at.digest); err != nil {
		t.Fatal(err)
	}
	now, err := s.readStamp(ctx, s.link, s.root+"/k")
	if err != nil {
		t.Fatal(err)
	}
	_, listed := nodeAt(t, c, s.duePathOf(now.due, at))
	if now.due <= old.due || now.time() != old.time() || !listed || stamps(t, c, s) != 2 {
		t.Errorf("%+v after %+v, listed: %v, %d nodes", now, old, listed, stamps(t, c, s))
	}
	if e, err := s.Get(ctx, "k", backend.GetOptions{}); err != nil || e.Expires.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
}

func stamps(t *testing.T, c *zk.Conn, s *Store) (n int) {
	buckets, _, err := c.Children(s.meta + "/ttl")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range buckets {
		names, _, err := c.Children(s.meta + "/ttl/" + b)
		if err != nil {
			t.Fatal(err)
		}
		n += len(names)
	}
	seconds, _, err := c.Children(s.meta + "/due")
	if err != nil {
		t.Fatal(err)
	}
	for _, second := range seconds {
		names, _, err := c.Children(s.meta + "/due/" + second)
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			t.Fatal(err)
		}
		n += len(names)
	}
	return n
}

// expiring puts a key that expires in a second, and waits until its node is gone.
func expiring(t *testing.T, s *Store, c *zk.Conn, key string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, nil, backend.PutOptions{TTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	pace.Eventually(t, 15*time.Second, key+" is deleted", func() bool {
		_, there := nodeAt(t, c, s.root+"/"+key)
		return !there
	})
}

// A key that expires soon does not wait for one that expires late.
func TestReaperLooksAtWhatComesFirst(t *testing.T) {
	addr := shared(t)
	s, c := open(t, addr, testserver.UniqueName(t), Options{}), raw(t, addr)
	if _, err := s.Put(t.Context(), "late", nil, backend.PutOptions{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	expiring(t, s, c, "first") // from then on "late" is the next
	expiring(t, s, c, "second")
}
