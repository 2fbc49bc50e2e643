package rediskv_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// A call that is under way when the Store closes the client that it has opened itself says that it was closed.
func TestCloseUnderReads(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	for range 10 {
		s, err := open(t, srv.URL()+"/"+testserver.UniqueName(t), rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, "k", "v", backend.PutOptions{})
		var reads sync.WaitGroup
		started := make(chan struct{}, 8)
		for range 8 {
			reads.Go(func() {
				for first := true; ; first = false {
					_, err := s.Get(t.Context(), "k", backend.GetOptions{})
					if first {
						started <- struct{}{}
					}
					if err != nil {
						if !errors.Is(err, backend.ErrClosed) {
							t.Errorf("a read beside Close: %v", err)
						}
						return
					}
				}
			})
		}
		for range 8 {
			<-started
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		reads.Wait()
	}
}

// A call whose context ends says so, whether the context or the connection, which has the same deadline, notices first.
func TestDeadlineIsTheContexts(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	s, err := open(t, "redis://"+proxy.Addr()+"/"+testserver.UniqueName(t), rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", backend.PutOptions{})
	proxy.Stall()
	defer proxy.Resume()
	var calls sync.WaitGroup
	for range 200 {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a write past its deadline: %v", err)
			}
		})
	}
	calls.Wait()
}

func open(t *testing.T, raw string, d rediskv.Driver) (*rediskv.Store, error) {
	t.Helper()
	u, err := backend.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), u)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s.(*rediskv.Store), nil
}

func TestURL(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want func(o *redis.Options) bool
	}{
		{"redis://", func(o *redis.Options) bool { return o.Addr == "127.0.0.1:6379" && o.DB == 0 && o.TLSConfig == nil }},
		{"redis://h/app?db=3", func(o *redis.Options) bool { return o.Addr == "h:6379" && o.DB == 3 }},
		{"redis://u:p%40ss@h:1/", func(o *redis.Options) bool { return o.Username == "u" && o.Password == "p@ss" && o.Addr == "h:1" }},
		{"redis://:secret@h", func(o *redis.Options) bool { return o.Username == "" && o.Password == "secret" }},
		{"rediss://h", func(o *redis.Options) bool { return o.TLSConfig != nil && !o.TLSConfig.InsecureSkipVerify }},
		{"redis+sentinel://h1,h2:5/app?master=m&db=2", func(o *redis.Options) bool { return o.Addr == "h1:26379" && o.DB == 2 }},
	} {
		s, err := open(t, c.raw, rediskv.Driver{})
		if err != nil {
			t.Errorf("%s: %v", c.raw, err)
			continue
		}
		if o := s.Client().(*redis.Client).Options(); !c.want(o) {
			t.Errorf("%s: addr %q, database %d, user %q, TLS %v", c.raw, o.Addr, o.DB, o.Username, o.TLSConfig != nil)
		}
	}
	s, err := open(t, "rediss+cluster://h1,h2:5/{app}", rediskv.Driver{TLS: &tls.Config{ServerName: "name"}})
	if err != nil {
		t.Fatal(err)
	}
	o := s.Client().(*redis.ClusterClient).Options()
	if strings.Join(o.Addrs, " ") != "h1:6379 h2:5" || o.TLSConfig.ServerName != "name" {
		t.Errorf("cluster: addresses %v, TLS %+v", o.Addrs, o.TLSConfig)
	}
}

func TestURLRefused(t *testing.T) {
	for _, raw := range []string{
		"redis://a,b/app",         // which of them?
		"redis://h/app?datbase=1", // a parameter that does not exist
		"redis://h?db=x",          //
		"redis://h?db=-1",         //
		"redis://h?pool_size=-1",  // go-redis panics on these
		"redis://h?pool_size=9999999999",
		"redis+sentinel://h?pool_size=-1",
		"redis+cluster://h/{a}?pool_size=-1",
		"redis+cluster://h/app",   // no hash tag
		"redis+cluster://h/{}app", // an empty one is none
		"redis+cluster://h/{a}?meta=other",
		"redis+cluster://h/{a}?db=1", // a cluster has one database
		"redis://user@h",
		"redis://h/app?meta=app",
		"redis+magic://h",
	} {
		if _, err := open(t, raw, rediskv.Driver{}); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", raw, err)
		}
	}
}

func TestDriverWithPasswordAndDatabase(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: []string{"user app on >secret ~* &* +@all"}})
	ctx := t.Context()
	if s, err := open(t, "redis://app:wrong@"+srv.Addrs()[0], rediskv.Driver{}); err != nil {
		t.Error(err)
	} else if err := s.Ping(ctx); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("with a wrong password: %v, want ErrPermission", err)
	} else if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the password stands in the error: %v", err)
	}
	for _, db := range []string{"0", "5"} {
		s, err := open(t, "redis://app:secret@"+srv.Addrs()[0]+"/app?db="+db, rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(ctx, "k", []byte(db), backend.PutOptions{If: backend.Absent}); err != nil {
			t.Fatalf("database %s: %v", db, err)
		}
		if got := s.Client().Get(ctx, "app/k").Val(); got != db {
			t.Errorf("database %s holds %q", db, got)
		}
	}
}

// TestUnreachable: without a deadline an unreachable server is ErrUnavailable after the dial timeout (R38), and nobody
// may think that a write was applied (R36).
func TestUnreachable(t *testing.T) {
	s, err := open(t, "redis://127.0.0.1:1?dial_timeout=200ms", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []context.Context{context.Background(), t.Context()} {
		_, err = s.Put(ctx, "k", nil, backend.PutOptions{})
		if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
			t.Errorf("Put: %v, want ErrUnavailable", err)
		}
	}
}

// TestDialerInterrupts: with a Dialer a call returns within 100 ms of its context's end though the server is silent (R38),
// a write says that it may have been applied (R36), and nothing of the interrupted reply reaches the next request.
func TestDialerInterrupts(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	s, err := open(t, "redis://"+srv.Addrs()[0]+"/app?pool_size=1", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	put(t, s, "k", "before", backend.PutOptions{})
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	late := func(name string, f func(context.Context) error) (err error) {
		first := true
		pace.Best(t, 100*time.Millisecond, name+" after the cancel", func() time.Duration {
			if !first {
				connectAgain(t, srv, s)
			}
			first = false
			ctx, cancel := context.WithCancel(ctx)
			ended := make(chan time.Time, 1)
			time.AfterFunc(50*time.Millisecond, func() { ended <- time.Now(); cancel() })
			err = f(ctx)
			took := time.Since(<-ended)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context.Canceled", name, err)
			}
			return took
		})
		return err
	}
	err = late("Put", func(ctx context.Context) error {
		_, err := s.Put(ctx, "k", []byte("during"), backend.PutOptions{})
		return err
	})
	if !errors.Is(err, backend.ErrUncertain) {
		t.Errorf("Put: %v, want ErrUncertain", err)
	}
	err = late("Get", func(ctx context.Context) error {
		_, err := s.Get(ctx, "k", backend.GetOptions{})
		return err
	})
	if errors.Is(err, backend.ErrUncertain) {
		t.Errorf("Get: %v", err)
	}
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "after", backend.PutOptions{})
	if e, err := s.Get(ctx, "k", backend.GetOptions{}); err != nil || string(e.Value) != "after" {
		t.Errorf("Get = %q, %v", e.Value, err)
	}
}

// putIsInterrupted demands that a Put to a silent server ends with its context. silence gives s a connection in order, and then
// has the server say no more.
func putIsInterrupted(t *testing.T, s *rediskv.Store, silence func()) {
	t.Helper()
	pace.Best(t, 150*time.Millisecond, "Put to a silent server", func() time.Duration {
		silence()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := s.Put(ctx, "k", nil, backend.PutOptions{})
		took := time.Since(start)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backend.ErrUncertain) {
			t.Errorf("Put to a silent server: %v", err)
		}
		return took
	})
}

// connectAgain gives s a connection in order to a server that is paused: what was interrupted costs one.
func connectAgain(t *testing.T, srv *testserver.Server, s *rediskv.Store) {
	t.Helper()
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "between", backend.PutOptions{})
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
}

// TestLongDialTimeout: a Dialer works with a dial timeout that is longer than what a reply may take.
func TestLongDialTimeout(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	s, err := open(t, "redis://"+srv.Addrs()[0]+"/app?dial_timeout=1m", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", backend.PutOptions{})
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	putIsInterrupted(t, s, func() { connectAgain(t, srv, s) })
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
}

// TestUnfitDialer: a client that does not hand deadlines on works as one without a Dialer.
func TestUnfitDialer(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	d := rediskv.NewDialer(nil)
	client := dialing(t, srv, &redis.Options{Dialer: d.Dial}) // without ContextTimeoutEnabled
	s := newStore(t, client, rediskv.Options{Root: "app", Dialer: d})
	put(t, s, "k", "v", backend.PutOptions{})
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	putIsInterrupted(t, s, func() { connectAgain(t, srv, s) })
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
}
