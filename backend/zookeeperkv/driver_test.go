package zookeeperkv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

func openURL(t *testing.T, d Driver, raw string) (*Store, error) {
	t.Helper()
	u, err := backend.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.open(u)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func TestURL(t *testing.T) {
	for _, bad := range []string{
		"zk://h/r?sesion=3s", "zk://h/r?session=long", "zk://user@h/r", "zk://u%3Av:p@h/r", "zk://h/r?acl=creator",
		"zk://h/r?acl=everybody", "zk://h/r?meta=/r", "zk://h/a/b?meta=/a", "zk://h/r?tls=perhaps", "zk://h/r?max_request=1M",
	} {
		if _, err := openURL(t, Driver{}, bad); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	s, err := openURL(t, Driver{Options: Options{Root: "/other", ClockSkew: time.Second}},
		"zookeeper://u:p@h1,h2:99//a/b/?session=7s&dial_timeout=1s&max_request=2000000&meta=/m")
	if err != nil {
		t.Fatal(err)
	}
	o := s.o
	if s.root != "/a/b" || s.meta != "/m" || o.SessionTimeout != 7*time.Second || o.DialTimeout != time.Second ||
		o.MaxRequest != 2000000 || o.ClockSkew != time.Second {
		t.Errorf("root %q, meta %q, %+v", s.root, s.meta, o)
	}
	if h := s.dialer.hosts; len(h) != 2 || h[0] != "h1:2181" || h[1] != "h2:99" {
		t.Errorf("hosts %q", h)
	}
	if want := zk.AuthACL(zk.PermAll)[0]; len(o.ACL) != 1 || o.ACL[0] != want {
		t.Errorf("ACL %v", o.ACL)
	}
	if New(nil, Options{Root: "/a", Meta: "/a"}).Ping(t.Context()) == nil {
		t.Error("New took the root for the bookkeeping")
	}
}

// With a user in the URL, others are kept out, and find the reason.
func TestDigest(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	s, err := openURL(t, Driver{}, "zk://alice:secret@"+addr+"/"+root)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "d/k", "v")
	ctx := t.Context()
	if _, err := s.Put(ctx, "d/k", []byte("w"), backend.PutOptions{If: backend.Present}); err != nil {
		t.Fatal(err)
	}
	again, err := openURL(t, Driver{}, "zk://alice:secret@"+addr+"/"+root)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := again.Get(ctx, "d/k", backend.GetOptions{}); err != nil || string(e.Value) != "w" {
		t.Errorf("the same user: %v, %v", e, err)
	}
	stranger, err := openURL(t, Driver{}, "zk://bob:secret@"+addr+"/"+root)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range calls(stranger) {
		if name == "Ping" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if err := call(ctx); err != nil && !errors.Is(err, backend.ErrPermission) && !errors.Is(err, backend.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := stranger.Get(ctx, "d/k", backend.GetOptions{}); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("Get by a stranger: %v", err)
	}
	if _, err := stranger.Put(ctx, "d/k", nil, backend.PutOptions{}); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("Put by a stranger: %v", err)
	}
	if err := stranger.Ping(ctx); err != nil {
		t.Errorf("Ping by a stranger: %v", err)
	}
}

// Who may write the keys but not the bookkeeping has the plain calls, and is told what is off.
func TestNoRightsOnTheBookkeeping(t *testing.T) {
	addr := shared(t)
	root := testserver.UniqueName(t)
	c := raw(t, addr)
	if err := c.AddAuth("digest", []byte("admin:x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create("/"+root+"=kv", []byte("polykv 1"), 0, zk.AuthACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	s := open(t, addr, root, Options{})
	ctx := t.Context()
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put(t, s, "d/k", "v")
	if e, err := w.Next(ctx); err != nil || e.Key != "d/k" {
		t.Errorf("%v, %v", e, err)
	}
	if e, err := s.Get(ctx, "d/k", backend.GetOptions{}); err != nil || string(e.Value) != "v" {
		t.Errorf("%v, %v", e, err)
	}
	if got := listed(t, s, "", backend.ListOptions{}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if err := s.Delete(ctx, "d/k", backend.DeleteOptions{}); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Contend(ctx, "l", backend.ContendOptions{}); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("Contend: %v", err)
	}
}

// tlsFront ends TLS in front of a server.
func tlsFront(t *testing.T, addr string) (front string, roots *x509.CertPool) {
	h := httptest.NewTLSServer(http.NotFoundHandler())
	h.Close()
	roots = x509.NewCertPool()
	roots.AddCert(h.Certificate())
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: h.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", addr)
			if err != nil {
				c.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{c, s}, {s, c}} {
				wg.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String(), roots
}

func TestTLS(t *testing.T) {
	front, roots := tlsFront(t, shared(t))
	s, err := openURL(t, Driver{TLS: &tls.Config{RootCAs: roots}}, "zk://"+front+"/"+testserver.UniqueName(t))
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "v")
	s.Close()
	unknown, err := openURL(t, Driver{Options: Options{DialTimeout: 300 * time.Millisecond}}, "zk://"+front+"/r?tls=true")
	if err != nil {
		t.Fatal(err)
	}
	if err := unknown.Ping(t.Context()); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}

// Close waits for all that runs, also while nobody answers, and later calls say so.
func TestCloseWhileTheServerIsSilent(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	put(t, s, "k", "v")
	resume := p.pause()
	defer resume()
	failed := make(chan error, 1)
	go func() {
		_, err := s.Get(context.Background(), "k", backend.GetOptions{})
		failed <- err
	}()
	begin, stalls := time.Now(), pace.Watch(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 5*time.Second+stalls.Since(begin) {
		t.Errorf("Close took %v", d)
	}
	if err := <-failed; !errors.Is(err, backend.ErrClosed) {
		t.Errorf("a call that Close interrupts: %v", err)
	}
	for name, call := range calls(s) {
		if err := call(t.Context()); name != "Holders" && !errors.Is(err, backend.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}
