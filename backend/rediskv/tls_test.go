package rediskv_test

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// refuses checks that calls of a store that raw opens fail soon with want, and that they connect no more than once each.
func refuses(t *testing.T, proxy *testserver.Proxy, raw string, conf *tls.Config, want error, secrets ...string) {
	t.Helper()
	s, err := open(t, raw, rediskv.Driver{TLS: conf})
	if err != nil {
		t.Fatal(err)
	}
	before, start, stalls := proxy.Traffic(), time.Now(), pace.Watch(t)
	calls := map[string]func(context.Context) error{
		"Ping": s.Ping,
		"Put": func(ctx context.Context) error {
			_, err := s.Put(ctx, "k", nil, backend.PutOptions{})
			return err
		},
		"Get": func(ctx context.Context) error {
			_, err := s.Get(ctx, "k", backend.GetOptions{})
			return err
		},
		"Watch": func(ctx context.Context) error {
			w, err := s.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
			if err == nil {
				w.Close()
			}
			return err
		},
		"Contend": func(ctx context.Context) error {
			_, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Second})
			return err
		},
	}
	for name, call := range calls {
		err := call(t.Context())
		if !errors.Is(err, want) || errors.Is(err, backend.ErrUncertain) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		for _, secret := range secrets {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: a password stands in the error: %v", name, err)
			}
		}
	}
	if took := time.Since(start); took > 3*time.Second+stalls.Since(start) {
		t.Errorf("%d refusals took %v", len(calls), took)
	}
	if n := proxy.Traffic().Sub(before).Connections; n > 2*int64(len(calls)) {
		t.Errorf("%d calls made %d connections", len(calls), n)
	}
}

// TestTLS: the server wants a client's certificate, and the client an authority that it knows.
func TestTLS(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, TLS: true})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	path := proxy.Addr() + "/" + testserver.UniqueName(t)

	s, err := open(t, "rediss://"+path, rediskv.Driver{TLS: srv.TLS()})
	if err != nil {
		t.Fatal(err)
	}
	w := watching(t, s, "", backend.WatchOptions{})
	put(t, s, "k", "v", backend.PutOptions{})
	if ev := next(t, w); ev.Key != "k" {
		t.Errorf("event %+v", ev)
	}
	// A call is interrupted inside TLS too.
	putIsInterrupted(t, s, func() {
		proxy.Resume()
		put(t, s, "k", "v", backend.PutOptions{})
		proxy.Stall()
	})
	proxy.Resume()
	put(t, s, "k", "v", backend.PutOptions{})

	anonymous := srv.TLS()
	anonymous.Certificates = nil
	for name, c := range map[string]struct {
		scheme string
		conf   *tls.Config
	}{
		"an authority that is not known": {"rediss", nil},
		"a certificate of another one":   {"rediss", srv.WrongTLS()},
		"no certificate":                 {"rediss", anonymous},
		"no TLS":                         {"redis", nil},
	} {
		t.Run(name, func(t *testing.T) { refuses(t, proxy, c.scheme+"://"+path, c.conf, backend.ErrUnavailable) })
	}
}

func TestPasswords(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Auth: true})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	at := "@" + proxy.Addr() + "/"
	all, limited := srv.Credentials(), srv.LimitedCredentials()
	root := testserver.LimitedRoot + "-" + testserver.UniqueName(t)
	for _, c := range []testserver.Credentials{all, limited} {
		s, err := open(t, "redis://"+c.User+":"+c.Password+at+root, rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, c.User, "v", backend.PutOptions{If: backend.Absent})
	}
	for name, raw := range map[string]string{
		"a wrong password": "redis://" + all.User + ":sesame" + at + root,
		"no password":      "redis://" + at[1:] + root,
		"nobody's name":    "redis://nobody:" + all.Password + at + root,
		"too few rights":   "redis://" + limited.User + ":" + limited.Password + at + testserver.ForbiddenRoot,
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, proxy, raw, nil, backend.ErrPermission, "sesame", all.Password, limited.Password)
		})
	}
}

// TestSentinelPassword: Sentinel has credentials of its own.
func TestSentinelPassword(t *testing.T) {
	primary := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	sentinel := startSentinel(t, strings.ReplaceAll(primary.Addrs()[0], ":", " "), "requirepass sesame")
	proxy := testserver.NewProxy(t, sentinel)
	raw := "redis+sentinel://" + proxy.Addr() + "/app?master=m"
	s, err := open(t, raw+"&sentinel_password=sesame&db=3", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v", backend.PutOptions{})
	if n := s.Client().DBSize(t.Context()).Val(); n == 0 {
		t.Error("nothing is in the database that was asked for")
	}
	refuses(t, proxy, raw, nil, backend.ErrPermission)
	refuses(t, proxy, raw+"&sentinel_password=wrong", nil, backend.ErrPermission)
	refuses(t, proxy, "redis+sentinel://"+proxy.Addr()+"/app?master=other&sentinel_password=sesame", nil, backend.ErrUnavailable)
}

// TestRightsThatEnd: a watch whose user is removed says so, and its store does not knock on the door for ever.
func TestRightsThatEnd(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	admin := newClient(t, srv)
	if err := admin.Do(t.Context(), "acl", "setuser", "app", "on", ">secret", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t, "redis://app:secret@"+proxy.Addr()+"/app", rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	w := watching(t, s, "", backend.WatchOptions{})
	put(t, s, "k", "v", backend.PutOptions{})
	next(t, w)
	if err := admin.Do(t.Context(), "acl", "deluser", "app").Err(); err != nil {
		t.Fatal(err)
	}
	before := proxy.Traffic()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if ev, err := w.Next(ctx); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("Next: %+v, %v, want ErrPermission", ev, err)
	}
	if n := proxy.Traffic().Sub(before).Connections; n > 30 {
		t.Errorf("%d connections were tried", n)
	}
}
