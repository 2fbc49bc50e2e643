package zookeeperkv

import (
	"context"
	"crypto/tls"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// refusedURL is that of a place where only the administrator has rights.
func refusedURL(addr string, who testserver.Credentials, timeout time.Duration) string {
	u := url.URL{Scheme: "zk", Host: addr, Path: "/" + testserver.ForbiddenRoot, RawQuery: "dial_timeout=" + timeout.String()}
	if who.User != "" {
		u.User = url.UserPassword(who.User, who.Password)
	}
	return u.String()
}

// Who has no right to a place is told so by every call, at once, and the server is then left alone.
func TestRefusedUser(t *testing.T) {
	server := servers.Shared(t, testserver.Spec{Store: testserver.ZooKeeper, Auth: true})
	wrong := server.Credentials()
	wrong.Password += "x"
	admin, err := openURL(t, Driver{}, refusedURL(server.Addrs()[0], server.Credentials(), 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"k", "d/k"} {
		put(t, admin, key, "v")
	}
	held, err := admin.Contend(t.Context(), "l", backend.ContendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, who := range map[string]testserver.Credentials{
		"a wrong password": wrong, "nobody": {}, "too few rights": server.LimitedCredentials(),
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, server.Addrs()[0])
			s, err := openURL(t, Driver{}, refusedURL(p.addr(), who, 20*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for name, call := range calls(s) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				var err error
				pace.Best(t, 2*time.Second, name, func() time.Duration { return pace.Timed(func() { err = call(ctx) }) })
				cancel()
				if name == "Ping" { // for which no right is needed
					if err != nil {
						t.Errorf("Ping: %v", err)
					}
				} else if !errors.Is(err, backend.ErrPermission) {
					t.Errorf("%s: %v", name, err)
				}
			}
			settle(t, p)
			if epoch, _ := s.link.session.now(); epoch != 1 {
				t.Errorf("%d connections", epoch)
			}
		})
	}
	if err := held.Release(t.Context()); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"k", "d/k"} {
		if e, err := admin.Get(t.Context(), key, backend.GetOptions{}); err != nil || string(e.Value) != "v" {
			t.Errorf("%s is %q afterwards, %v", key, e.Value, err)
		}
		if err := admin.Delete(t.Context(), key, backend.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// With certificates that do not fit there is no connection: every call ends with the dial timeout, and servers are tried
// at a moderate pace.
func TestRefusedCertificate(t *testing.T) {
	server := servers.Shared(t, testserver.Spec{Store: testserver.ZooKeeper, TLS: true, Auth: true})
	strange, unsure, anonymous := server.TLS(), server.TLS(), server.TLS()
	strange.Certificates = server.WrongTLS().Certificates
	unsure.RootCAs = server.WrongTLS().RootCAs
	anonymous.Certificates = nil
	for name, conf := range map[string]*tls.Config{
		"of another authority": strange, "of a server of another authority": unsure, "none": anonymous,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testserver.NewProxy(t, server.Addrs()[0])
			s, err := openURL(t, Driver{TLS: conf}, refusedURL(p.Addr(), server.Credentials(), 500*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			for name, call := range calls(s) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if name == "Holders" {
					cancel() // it waits for the server until its context ends
				}
				var err error
				pace.Best(t, 2*time.Second, name, func() time.Duration { return pace.Timed(func() { err = call(ctx) }) })
				cancel()
				if name != "Holders" && (!errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain)) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if n, d := p.Traffic().Connections, time.Since(begin); float64(n) > 2+2*d.Seconds() {
				t.Errorf("%d connections in %v", n, d)
			}
		})
	}
	right, err := openURL(t, Driver{TLS: server.TLS()}, refusedURL(server.Addrs()[0], server.Credentials(), 20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	put(t, right, "k", "v")
	if got := listed(t, right, "", backend.ListOptions{}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if err := right.Delete(t.Context(), "k", backend.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
