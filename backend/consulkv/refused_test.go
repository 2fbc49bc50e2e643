package consulkv_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// prompt fails unless all errors came before a dial timeout would have ended the call, and matches one of want.
func prompt(t *testing.T, what string, took time.Duration, err error, want ...error) {
	t.Helper()
	if took > 4*time.Second {
		t.Errorf("%s took %v", what, took)
	}
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: %v, want one of %v", what, err, want)
}

// everyRequest makes each kind of request once.
func everyRequest(ctx context.Context, s backend.Store) map[string]error {
	errs := map[string]error{"ping": s.Ping(ctx)}
	_, errs["get"] = s.Get(ctx, "k", backend.GetOptions{})
	_, errs["get many"] = s.GetMany(ctx, []string{"k", "l"}, backend.GetOptions{})
	_, errs["put"] = s.Put(ctx, "k", nil, backend.PutOptions{})
	_, errs["create"] = s.Put(ctx, "k", nil, backend.PutOptions{If: backend.Absent})
	errs["delete"] = s.Delete(ctx, "k", backend.DeleteOptions{})
	_, errs["delete prefix"] = s.DeletePrefix(ctx, "d")
	_, errs["commit"] = s.Commit(ctx, backend.Txn{Writes: []backend.Write{{Key: "k"}}})
	_, errs["register"] = s.Register(ctx, "k", nil, backend.RegisterOptions{})
	_, errs["lock"] = s.Contend(ctx, "l", backend.ContendOptions{})
	for _, err := range s.List(ctx, "", backend.ListOptions{}) {
		errs["list"] = err
	}
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err == nil {
		_, err = w.Next(ctx)
		w.Close()
	}
	errs["watch"] = err
	return errs
}

// A token that the server does not know is ErrPermission from every call, at once, and after one request each.
func TestWrongToken(t *testing.T) {
	addr := servers.Shared(t, withACLs).Addrs()[0]
	net := new(network)
	s := consulkv.New(&api.Config{Address: addr, Token: "5e1f0000-0000-0000-0000-00000000dead", HttpClient: net.client(t)}, consulkv.Options{Root: "mine"})
	defer s.Close()
	began, stalls := time.Now(), pace.Watch(t)
	errs := everyRequest(t.Context(), s)
	took := time.Since(began) - stalls.Since(began)
	for what, err := range errs {
		prompt(t, what, took, err, backend.ErrPermission)
	}
	if n := net.requests.Load(); n > int64(2*len(errs)) {
		t.Errorf("%d requests for %d calls", n, len(errs))
	}
}

// A token that is taken back while a watch is open ends the watch, with ErrPermission and without a loop.
func TestTokenTakenBack(t *testing.T) {
	addr := servers.Shared(t, withACLs).Addrs()[0]
	admin, err := api.NewClient(&api.Config{Address: addr, Token: managementToken, HttpClient: new(network).client(t)})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Description: "short-lived"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	net := new(network)
	s := consulkv.New(&api.Config{Address: addr, Token: token.SecretID, HttpClient: net.client(t)}, consulkv.Options{Root: testserver.UniqueName(t)})
	defer s.Close()
	w, err := s.Watch(t.Context(), "", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if ev, err := w.Next(ctx); err != nil || ev.Kind != backend.Synced {
		t.Fatalf("%v, %v", ev.Kind, err)
	}
	before := net.requests.Load()
	if _, err := admin.ACL().TokenDelete(token.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	// The read that is held already ends in its own time, or with a change.
	if _, err := w.Next(ctx); !errors.Is(err, backend.ErrPermission) {
		t.Errorf("the watch ended with %v", err)
	}
	if n := net.requests.Load() - before; n > 10 {
		t.Errorf("%d requests until the watch ended", n)
	}
}

// A certificate that one of the two does not trust is ErrPermission or ErrUnavailable from every call, at once, without a
// loop of handshakes.
func TestWrongCertificate(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Consul, TLS: true})
	for name, spoil := range map[string]func(c *tls.Config){
		"of the client": func(c *tls.Config) { c.Certificates = srv.WrongTLS().Certificates },
		"none":          func(c *tls.Config) { c.Certificates = nil },
		"of the server": func(c *tls.Config) { c.RootCAs = srv.WrongTLS().RootCAs },
	} {
		t.Run(name, func(t *testing.T) {
			conf := srv.TLS()
			spoil(conf)
			p := testserver.NewProxy(t, srv.Addrs()[0])
			transport := &http.Transport{TLSClientConfig: conf}
			defer transport.CloseIdleConnections()
			s := consulkv.New(&api.Config{Scheme: "https", Address: p.Addr(), HttpClient: &http.Client{Transport: transport}}, consulkv.Options{Root: "r"})
			defer s.Close()
			began, stalls := time.Now(), pace.Watch(t)
			errs := everyRequest(t.Context(), s)
			took := time.Since(began) - stalls.Since(began)
			for what, err := range errs {
				prompt(t, what, took, err, backend.ErrPermission, backend.ErrUnavailable)
			}
			if n := p.Traffic().Connections; n > int64(3*len(errs)) {
				t.Errorf("%d connections for %d calls", n, len(errs))
			}
		})
	}
}

// A store that meets expired entries which its token must not delete goes on deleting those that it wrote.
func TestReaperWithoutARightToAll(t *testing.T) {
	addr := servers.Shared(t, withACLs).Addrs()[0]
	root := testserver.UniqueName(t)
	client := func(token string) *api.Client {
		c, err := api.NewClient(&api.Config{Address: addr, Token: token, HttpClient: new(network).client(t)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin := client(managementToken)
	policy, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: root, Rules: `key_prefix "" { policy = "read" } key_prefix "` + root + `/mine" { policy = "write" }`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(token string, log *slog.Logger) *consulkv.Store {
		return consulkv.New(&api.Config{Address: addr, Token: token, HttpClient: new(network).client(t)}, consulkv.Options{Root: root, Logger: log})
	}
	short := func(s *consulkv.Store, key string) {
		if _, err := s.Put(t.Context(), key, nil, backend.PutOptions{TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	others := open(managementToken, nil)
	short(others, "others")
	others.Close()
	var log syncBuffer
	s := open(token.SecretID, slog.New(slog.NewTextHandler(&log, nil)))
	defer s.Close()
	w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	pace.Eventually(t, patience, "the entry of others is met", func() bool { return log.Len() > 0 })
	short(s, "mine")
	pace.Eventually(t, patience, "the own entry is deleted", func() bool {
		names, _, err := admin.KV().Keys(root+"/", "", nil)
		return err == nil && slices.Equal(names, []string{root + "/others"})
	})
}

// syncBuffer is a buffer that is written to beside.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Len()
}
