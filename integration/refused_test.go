package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// secure returns the drivers with a configuration for TLS.
func secure(conf *tls.Config) kv.Drivers {
	return kv.Drivers{
		etcdkv.Driver{TLS: conf}, consulkv.Driver{TLS: conf}, zookeeperkv.Driver{TLS: conf}, rediskv.Driver{TLS: conf},
	}
}

// client is what a server is shown.
type client struct {
	name string
	tls  *tls.Config
	who  testserver.Credentials
	want []error
}

// TestRefused shows servers what they refuse. Each call ends promptly, with ErrPermission for a user without the right and
// ErrPermission or ErrUnavailable for a connection that never comes about, and the server is not asked again and again.
func TestRefused(t *testing.T) {
	for _, store := range testserver.Stores() {
		// Users are tried without certificates: to ZooKeeper a client's certificate is an identity of its own.
		t.Run(string(store)+"/user", func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store, Auth: true})
			wrong := srv.Credentials()
			if wrong.Token != "" {
				wrong.Token = "1d1c0b3e-5f0e-4b52-a0b1-0000073c4e70"
			} else {
				wrong.Password = "s3cret-password"
			}
			refuses(t, store, srv,
				client{"a wrong password", nil, wrong, []error{kv.ErrPermission}},
				client{"nobody", nil, testserver.Credentials{}, []error{kv.ErrPermission}},
				client{"too few rights", nil, srv.LimitedCredentials(), []error{kv.ErrPermission}},
			)
		})
		t.Run(string(store)+"/certificate", func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: store, TLS: true, Auth: true})
			strange := srv.TLS()
			strange.Certificates = srv.WrongTLS().Certificates
			unsure := srv.TLS()
			unsure.RootCAs = srv.WrongTLS().RootCAs
			anonymous := srv.TLS()
			anonymous.Certificates = nil
			never := []error{kv.ErrPermission, kv.ErrUnavailable}
			refuses(t, store, srv,
				client{"of another authority", strange, srv.Credentials(), never},
				client{"of a server of another authority", unsure, srv.Credentials(), never},
				client{"none", anonymous, srv.Credentials(), never},
			)
		})
	}
}

// refuses shows srv each of clients, beside one that has every right and whose key is unharmed at the end.
func refuses(t *testing.T, store testserver.Store, srv *testserver.Server, clients ...client) {
	admin, err := openURL(t, secure(srv.TLS()), refusedURL(srv.Addrs()[0], store, testserver.ForbiddenRoot, srv.Credentials()))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := admin.Put(t.Context(), "kept", []byte("what was there"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			p := testserver.NewProxy(t, srv.Addrs()[0])
			refused(t, store, p, secure(c.tls), c.who, c.want)
		})
	}
	unharmed(t, t.Context(), admin, kept)
	if err := admin.Delete(t.Context(), "kept"); err != nil {
		t.Error(err)
	}
}

func refused(t *testing.T, store testserver.Store, p *testserver.Proxy, d kv.Drivers, who testserver.Credentials, want []error) {
	s, err := openURL(t, d, refusedURL(p.Addr(), store, testserver.ForbiddenRoot, who))
	if err != nil { // a driver may log in when it opens
		oneOf(t, "open", err, want)
		return
	}
	stalls := pace.Watch(t)
	for op, do := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := s.Get(ctx, "kept"); return err },
		"put": func(ctx context.Context) error { _, err := s.Put(ctx, "kept", []byte(secret)); return err },
	} {
		start := time.Now()
		err := do(t.Context())
		took := time.Since(start) - stalls.Since(start)
		if store == testserver.Consul && op == "get" && errors.Is(err, kv.ErrNotFound) {
			continue // Consul hides what a token must not read
		}
		oneOf(t, op, err, want)
		if took > 3500*time.Millisecond {
			t.Errorf("%s took %v", op, took)
		}
	}
	if n := p.Traffic().Connections; n > 40 {
		t.Errorf("%d connections for two calls", n)
	}
}

func refusedURL(addr string, store testserver.Store, root string, who testserver.Credentials) string {
	return storeURL(addr, store, root, who, url.Values{dialTimeout[store]: {"1s"}})
}

func oneOf(t *testing.T, what string, err error, want []error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			checkError(t, what, err)
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, want)
}
