package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// A write whose reply is lost is ErrUncertain, one that was never sent is not.
func TestLostReplies(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
	p := newProxy(t, srv.Addrs()[0])
	s := New(dial(t, p.addr), Options{Root: testserver.UniqueName(t), DialTimeout: 300 * time.Millisecond})
	t.Cleanup(func() { _ = s.Close() })
	ctx := within(t, 30*time.Second)
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}

	p.mute(true)
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_, err := s.Put(short, "k", nil, backend.PutOptions{})
	cancel()
	if !errors.Is(err, backend.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no reply in time: %v", err)
	}
	got := make(chan error)
	go func() { _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); got <- err }()
	time.AfterFunc(200*time.Millisecond, p.cut)
	if err := <-got; !errors.Is(err, backend.ErrUncertain) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a cut connection: %v", err)
	}
	go func() { _, err := s.Get(ctx, "k", backend.GetOptions{}); got <- err }()
	time.AfterFunc(200*time.Millisecond, p.cut)
	if err := <-got; !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
		t.Errorf("a read: %v", err)
	}
	p.mute(false)

	p.refuse(true)
	pace.Best(t, 3*time.Second, "the dial timeout of 300ms", func() time.Duration {
		start := time.Now()
		_, err := s.Put(t.Context(), "k", nil, backend.PutOptions{})
		took := time.Since(start)
		if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
			t.Errorf("nobody listens: %v", err)
		}
		return took
	})
	p.refuse(false)
	if _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

// A server that accepts and says nothing is unavailable after the dial timeout.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := New(dial(t, l.Addr().String()), Options{DialTimeout: 200 * time.Millisecond})
	defer s.Close()
	pace.Best(t, 3*time.Second, "Ping", func() time.Duration {
		start := time.Now()
		err := s.Ping(t.Context())
		took := time.Since(start)
		if !errors.Is(err, backend.ErrUnavailable) {
			t.Error(err)
		}
		return took
	})
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Etcd}) // compaction is for the whole server
	p := newProxy(t, srv.Addrs()[0])
	c := dial(t, srv.Addrs()...)
	s := New(dial(t, p.addr), Options{Root: "r"})
	t.Cleanup(func() { _ = s.Close() })
	ctx := within(t, time.Minute)
	put := func() backend.Revision {
		t.Helper()
		resp, err := c.Put(ctx, "r/k", "v")
		if err != nil {
			t.Fatal(err)
		}
		return backend.Revision(resp.Header.Revision)
	}
	watch := func(o backend.WatchOptions) backend.Watch {
		t.Helper()
		w, err := s.Watch(ctx, "", o)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := watch(backend.WatchOptions{})
	put()
	first, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rev := put()
	second, err := w.Next(ctx)
	if err != nil || second.Revision != rev {
		t.Fatal(second, err)
	}
	if _, err := c.Compact(ctx, int64(rev)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Watch(ctx, "", backend.WatchOptions{Resume: first.Token}); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("resume below the compaction: %v", err)
	}
	at := watch(backend.WatchOptions{Resume: second.Token, Prev: true})
	put()
	if ev, err := at.Next(ctx); err != nil || ev.Kind != backend.Updated {
		t.Errorf("resume at the compaction: %+v, %v", ev, err)
	}
	// What w misses while it is cut off is compacted away.
	p.refuse(true)
	put()
	if _, err := c.Compact(ctx, int64(put())); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	for {
		if _, err = w.Next(ctx); err != nil {
			break
		}
	}
	if !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("a watch that missed a compaction: %v", err)
	}
}

// A cluster that was restored from a backup keeps its ID if it is given the
// same names, and soon has the revisions that it had before.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Etcd, Config: []string{"--data-dir=" + dir}})
	c := dial(t, srv.Addrs()...)
	s := New(dial(t, srv.Addrs()...), Options{Root: "r"})
	t.Cleanup(func() { _ = s.Close() })
	ctx := within(t, 2*time.Minute)
	put := func(value string) {
		t.Helper()
		for {
			_, err := c.Put(ctx, "r/k", value, clientv3.WithPrevKV())
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	put("before the backup")
	if err := srv.Stop(ctx, 0); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var last backend.Event
	for i := range 5 {
		put(fmt.Sprint("lost ", i))
		if last, err = w.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := srv.Stop(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(ctx); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("the watch: %v", err)
	}
	for i := range 10 {
		put(fmt.Sprint("new ", i))
	}
	if now, err := s.current(ctx, "r/"); err != nil || backend.Revision(now) <= last.Revision {
		t.Fatal(now, err)
	}
	if _, err := drain(ctx, s, last.Token); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("the token: %v", err)
	}
}

// drain reads from a token until an error.
func drain(ctx context.Context, s *Store, from backend.Token) (n int, err error) {
	w, err := s.Watch(ctx, "", backend.WatchOptions{Resume: from})
	for err == nil {
		if _, err = w.Next(ctx); err == nil {
			n++
		}
	}
	return n, err
}

func TestProgressInOrder(t *testing.T) {
	for version, want := range map[string]bool{
		"3.4.23": false, "3.4.24": false, "3.4.25": true, "3.5.0": false, "3.5.7": false, "3.5.8": true, "3.6.0": true, "3.7.3": true, "4.0.0": true, "": false,
	} {
		if got := progressInOrder(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
	w, err := open(t, Options{}).Watch(within(t, 20*time.Second), "", backend.WatchOptions{})
	if progressInOrder(srv.Version()) != (err == nil) || err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Watch on etcd %s: %v, %v", srv.Version(), w, err)
	}
}
