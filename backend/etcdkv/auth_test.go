package etcdkv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

func openURL(t testing.TB, d Driver, raw string) (*Store, error) {
	t.Helper()
	u, err := backend.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Open(t.Context(), u)
	if err != nil {
		return nil, err
	}
	s := b.(*Store)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, nil
}

// A user with rights on the root alone can do everything but locks.
func TestAuth(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Etcd})
	admin := dial(t, srv.Addrs()...)
	ctx := within(t, time.Minute)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.UserAdd(ctx, "root", "secret"))
	must(admin.UserGrantRole(ctx, "root", "root"))
	grant := func(user string, kind clientv3.PermissionType, prefixes ...string) {
		must(admin.UserAdd(ctx, user, "pass"))
		must(admin.RoleAdd(ctx, user))
		for _, p := range prefixes {
			must(admin.RoleGrantPermission(ctx, user, p, clientv3.GetPrefixRangeEnd(p), kind))
		}
		must(admin.UserGrantRole(ctx, user, user))
	}
	grant("keys", clientv3.PermissionType(clientv3.PermReadWrite), "shop/")
	grant("locks", clientv3.PermissionType(clientv3.PermReadWrite), "shop/", "shop=kv/")
	grant("reader", clientv3.PermissionType(clientv3.PermRead), "shop/")
	must(admin.AuthEnable(ctx))

	addr := srv.Addrs()[0]
	if _, err := openURL(t, Driver{}, "etcd://keys:wrong@"+addr+"/shop"); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("a wrong password: %v", err)
	} else if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the password stands in %q", err)
	}
	open := func(user, root string) *Store {
		t.Helper()
		s, err := openURL(t, Driver{}, "etcd://"+user+":pass@"+addr+"/"+root)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open("keys", "shop")
	must(nil, s.Ping(ctx))
	w, err := s.Watch(ctx, "", backend.WatchOptions{Prev: true})
	must(w, err)
	must(s.Put(ctx, "a", []byte("1"), backend.PutOptions{TTL: time.Minute}))
	must(s.Put(ctx, "a", nil, backend.PutOptions{}))
	must(s.Get(ctx, "a", backend.GetOptions{}))
	for _, o := range []backend.ListOptions{{}, {KeysOnly: true}, {Children: true}} {
		n := 0
		for _, err := range s.List(ctx, "", o) {
			must(nil, err)
			n++
		}
		if n != 1 {
			t.Errorf("%+v yields %d", o, n)
		}
	}
	l, err := s.Register(ctx, "r", nil, backend.RegisterOptions{TTL: time.Minute})
	must(l, err)
	must(nil, l.Renew(ctx))
	must(nil, l.Release(ctx))
	must(nil, w.Sync(ctx))
	for _, want := range []backend.Kind{backend.Created, backend.Updated, backend.Created, backend.Deleted, backend.Progress} {
		if ev, err := w.Next(ctx); err != nil || ev.Kind != want {
			t.Errorf("%+v, %v, want %v", ev, err, want)
		}
	}
	must(s.DeletePrefix(ctx, ""))

	if _, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute}); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("a lock without rights on Meta: %v", err)
	}
	c, err := open("locks", "shop").Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute})
	must(c, err)
	must(nil, c.Renew(ctx))
	must(nil, c.Release(ctx))

	r := open("reader", "shop")
	must(r.GetMany(ctx, []string{"a", "b"}, backend.GetOptions{}))
	if _, err := r.Put(ctx, "a", nil, backend.PutOptions{}); !errors.Is(err, backend.ErrPermission) || errors.Is(err, backend.ErrUncertain) {
		t.Errorf("a put by a reader: %v", err)
	}

	other := open("keys", "other")
	for what, err := range map[string]error{
		"Ping": other.Ping(ctx),
		"Get":  func() error { _, err := other.Get(ctx, "k", backend.GetOptions{}); return err }(),
		"Watch": func() error {
			_, err := other.Watch(ctx, "", backend.WatchOptions{})
			return err
		}(),
		"Watch.Next": func() error {
			w, err := other.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
			if err == nil {
				_, err = w.Next(ctx)
			}
			return err
		}(),
	} {
		if !errors.Is(err, backend.ErrPermission) {
			t.Errorf("%s elsewhere: %v", what, err)
		}
	}
}

func TestURL(t *testing.T) {
	for raw, want := range map[string]error{
		"etcd://h/r?nonsense=1":            backend.ErrInvalid,
		"etcd://h/r?clock_skew=x":          backend.ErrInvalid,
		"etcd://user@h/r":                  backend.ErrInvalid,
		"etcd://u:p@h/r?token=t":           backend.ErrInvalid,
		"etcd://h/r?max_request_bytes=100": backend.ErrInvalid,
		"etcd://h/r?meta=r":                backend.ErrInvalid,
		"etcd://h1,h2:1,[::1]//r?meta=m&dial_timeout=1s&clock_skew=1s&watch_buffer=1&token=t": nil,
	} {
		s, err := openURL(t, Driver{}, raw)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", raw, err)
		}
		if err == nil && (s.space.Root() != "/r" || s.space.Meta() != "m" || len(s.client.Endpoints()) != 3) {
			t.Errorf("%s: %+v", raw, s.o)
		}
	}
}

// TLS is in front of the server here; to the client it is the same.
func TestTLS(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Etcd})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				s, err := net.Dial("tcp", srv.Addrs()[0])
				if err != nil {
					return
				}
				defer s.Close()
				work.Go(func() { _, _ = io.Copy(c, s); _ = c.Close() })
				_, _ = io.Copy(s, c)
			})
		}
	})
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	s, err := openURL(t, Driver{TLS: &tls.Config{RootCAs: pool}}, "etcd+tls://"+l.Addr().String()+"/"+testserver.UniqueName(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	s, err = openURL(t, Driver{Options: Options{DialTimeout: 2 * time.Second}}, "etcd+tls://"+l.Addr().String()+"/r")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(within(t, 20*time.Second)); !errors.Is(err, backend.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with an unknown authority: %v", err)
	}
}
