package consulkv_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

func openURL(t *testing.T, d consulkv.Driver, raw string) (backend.Store, error) {
	t.Helper()
	u, err := backend.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), u)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func TestURLsThatCannotBeFollowed(t *testing.T) {
	for _, raw := range []string{
		"consul://a:8500,b:8500/root",
		"consul://a/root?sessions=1",
		"consul://a/root?clock_skew=fast",
		"consul://a/root?meta=root",
	} {
		if _, err := openURL(t, consulkv.Driver{}, raw); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

// Everything that a URL or the Driver says reaches the agent.
func TestURL(t *testing.T) {
	var got *http.Request
	agent := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("X-Consul-Index", "1")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer agent.Close()
	pool := x509.NewCertPool()
	pool.AddCert(agent.Certificate())
	host := strings.TrimPrefix(agent.URL, "https://")
	d := consulkv.Driver{TLS: &tls.Config{RootCAs: pool}}
	s, err := openURL(t, d, "consul+tls://me:secret@"+host+"//my/root?token=t0k&dc=dc2&namespace=ns1&partition=p1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "a key", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Fatal(err)
	}
	user, password, _ := got.BasicAuth()
	q := got.URL.Query()
	for what, pair := range map[string][2]string{
		"path":      {got.URL.Path, "/v1/kv/my/root/a key"},
		"token":     {got.Header.Get("X-Consul-Token"), "t0k"},
		"user":      {user + ":" + password, "me:secret"},
		"dc":        {q.Get("dc"), "dc2"},
		"namespace": {q.Get("ns"), "ns1"},
		"partition": {q.Get("partition"), "p1"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %q, want %q", what, pair[0], pair[1])
		}
	}
	if !q.Has("consistent") {
		t.Error("the read is not consistent")
	}
	// Without the certificate there is no connection, and the error has no secret.
	s, err = openURL(t, consulkv.Driver{}, "consul+tls://me:secret@"+host+"/root?token=t0k")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Ping(t.Context())
	if !errors.Is(err, backend.ErrUnavailable) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "t0k") {
		t.Errorf("Ping: %v", err)
	}
}

// A proxy's 404, or that of another server, must not read as an empty store.
func TestNotConsul(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	s, err := openURL(t, consulkv.Driver{}, "consul://"+strings.TrimPrefix(other.URL, "http://")+"/root")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
	if _, err := s.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("Get: %v", err)
	}
	for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if !errors.Is(err, backend.ErrUnavailable) {
			t.Errorf("List: %v", err)
		}
		return
	}
	t.Error("List: nothing, and no error")
}

func TestUnreachable(t *testing.T) {
	// TEST-NET-1, which nobody routes: a dial that only a timeout ends.
	s, err := openURL(t, consulkv.Driver{}, "consul://192.0.2.1/root?dial_timeout=100ms")
	if err != nil {
		t.Fatal(err)
	}
	pace.Best(t, 3*time.Second, "Put", func() time.Duration {
		began := time.Now()
		_, err := s.Put(t.Context(), "k", nil, backend.PutOptions{})
		took := time.Since(began)
		if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
			t.Errorf("Put: %v", err)
		}
		return took
	})
}

// A client that is not ours to configure must not make a call wait for ever.
func TestDialTimeoutWithAForeignClient(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		select {
		case <-block:
		case <-r.Context().Done():
		}
		return nil, r.Context().Err()
	})}
	s := consulkv.New(&api.Config{HttpClient: client}, consulkv.Options{DialTimeout: 50 * time.Millisecond})
	defer s.Close()
	if err := s.Ping(t.Context()); !errors.Is(err, backend.ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
}

func TestStatusCodes(t *testing.T) {
	code := http.StatusOK
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "why", code) }))
	defer agent.Close()
	s := consulkv.New(&api.Config{Address: agent.URL}, consulkv.Options{})
	defer s.Close()
	for _, c := range []struct {
		code        int
		read, write error
	}{
		{http.StatusForbidden, backend.ErrPermission, backend.ErrPermission},
		{http.StatusTooManyRequests, backend.ErrUnavailable, backend.ErrUnavailable},
		{http.StatusRequestEntityTooLarge, backend.ErrTooLarge, backend.ErrTooLarge},
		{http.StatusInternalServerError, backend.ErrUnavailable, backend.ErrUncertain},
		{http.StatusServiceUnavailable, backend.ErrUnavailable, backend.ErrUncertain},
		{http.StatusBadRequest, backend.ErrInvalid, backend.ErrInvalid},
	} {
		code = c.code
		var status api.StatusError
		_, err := s.Get(t.Context(), "k", backend.GetOptions{})
		if !errors.Is(err, c.read) || !errors.As(err, &status) || status.Code != c.code {
			t.Errorf("%d: Get: %v", c.code, err)
		}
		if _, err = s.Put(t.Context(), "k", nil, backend.PutOptions{}); !errors.Is(err, c.write) {
			t.Errorf("%d: Put: %v", c.code, err)
		}
	}
}

// managementToken may do everything on a server that knows withACLs. Default policies other than "allow" would keep the
// rig itself from looking at the server.
const managementToken = "5e1f0000-0000-0000-0000-000000000001"

var withACLs = testserver.Spec{Store: testserver.Consul, Config: []string{
	`acl { enabled = true, default_policy = "allow", tokens { initial_management = "` + managementToken + `" } }`,
}}

// The rights are told apart by status codes and by which operation failed.
func TestRights(t *testing.T) {
	const root = "mine"
	srv := servers.Shared(t, withACLs)
	addr := srv.Addrs()[0]
	admin, err := api.NewClient(&api.Config{Address: addr, Token: managementToken, HttpClient: new(network).client(t)})
	if err != nil {
		t.Fatal(err)
	}
	store := func(name, rules string) *consulkv.Store {
		p, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: p.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := consulkv.New(&api.Config{Address: addr, Token: token.SecretID}, consulkv.Options{Root: root})
		t.Cleanup(func() { s.Close() })
		return s
	}
	const nothing = `key_prefix "" { policy = "deny" } session_prefix "" { policy = "deny" } `
	ctx := t.Context()
	want := func(what string, err error, sentinel error) {
		t.Helper()
		if !errors.Is(err, sentinel) {
			t.Errorf("%s: %v, want %v", what, err, sentinel)
		}
	}
	all := store("all", `key_prefix "" { policy = "deny" } key_prefix "mine" { policy = "write" } session_prefix "" { policy = "write" }`)
	e, err := all.Put(ctx, "k", []byte("v"), backend.PutOptions{})
	want("Put", err, nil)
	c, err := all.Contend(ctx, "l", backend.ContendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want("Release", c.Release(ctx), nil)

	{
		s := store("read", nothing+`key_prefix "mine" { policy = "read" }`)
		want("Ping", s.Ping(ctx), nil)
		_, err := s.Get(ctx, "k", backend.GetOptions{})
		want("Get", err, nil)
		_, err = s.Put(ctx, "k", nil, backend.PutOptions{})
		want("Put", err, backend.ErrPermission)
		_, err = s.Put(ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
		want("compare and set", err, backend.ErrPermission)
		_, err = s.Put(ctx, "k", nil, backend.PutOptions{If: backend.Absent})
		want("create", err, backend.ErrPermission)
		want("Delete", s.Delete(ctx, "k", backend.DeleteOptions{}), backend.ErrPermission)
		_, err = s.DeletePrefix(ctx, "")
		want("DeletePrefix", err, backend.ErrPermission)
		_, err = s.Commit(ctx, backend.Txn{Writes: []backend.Write{{Key: "k"}}})
		want("Commit", err, backend.ErrPermission)
		_, err = s.Contend(ctx, "l", backend.ContendOptions{})
		want("Contend", err, backend.ErrPermission)
		_, err = s.Register(ctx, "r", nil, backend.RegisterOptions{})
		want("Register", err, backend.ErrPermission)
		w, err := s.Watch(ctx, "", backend.WatchOptions{})
		want("Watch", err, nil)
		w.Close()
	}
	{
		l, err := all.Register(ctx, "r", nil, backend.RegisterOptions{})
		want("Register", err, nil)
		s := store("sessions", nothing+`key_prefix "mine" { policy = "read" } key_prefix "mine/w" { policy = "write" } session_prefix "" { policy = "write" }`)
		ctx, cancel := pace.Watch(t).Timeout(ctx, 10*time.Second)
		defer cancel()
		for _, key := range []string{"r", "new"} {
			_, err = s.Register(ctx, key, nil, backend.RegisterOptions{})
			want("Register without a right to the key", err, backend.ErrPermission)
		}
		_, err = s.Register(ctx, "new", nil, backend.RegisterOptions{Absent: true})
		want("Register if absent without a right to the key", err, backend.ErrPermission)
		_, err = s.Contend(ctx, "l", backend.ContendOptions{})
		want("Contend without a right to the queue", err, backend.ErrPermission)
		_, err = s.Put(ctx, "r", nil, backend.PutOptions{If: backend.Present})
		want("Put over a registered key", err, backend.ErrPermission)
		_, err = s.Put(ctx, "r", nil, backend.PutOptions{If: backend.AtRevision, Revision: l.Entry().Revision})
		want("compare and set of a registered key", err, backend.ErrPermission)
		_, err = s.Commit(ctx, backend.Txn{
			Checks: []backend.Check{{If: backend.Absent, Key: "new"}}, Writes: []backend.Write{{Key: "w/k"}},
		})
		want("a check for absence, which takes the right to write", err, backend.ErrPermission)
		want("Release", l.Release(ctx), nil)
	}
	none := store("none", nothing)
	want("Ping", none.Ping(ctx), backend.ErrPermission)
	_, err = none.Get(ctx, "k", backend.GetOptions{})
	want("Get", err, backend.ErrPermission)
	_, err = none.GetMany(ctx, []string{"k"}, backend.GetOptions{})
	want("GetMany", err, backend.ErrPermission)
	_, err = none.Put(ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
	want("compare and set", err, backend.ErrPermission)
	_, err = none.Commit(ctx, backend.Txn{Checks: []backend.Check{{If: backend.Absent, Key: "none"}}})
	want("check", err, backend.ErrPermission)
	_, err = none.Watch(ctx, "k", backend.WatchOptions{Key: true})
	want("WatchKey", err, backend.ErrPermission)
	wrong := consulkv.New(&api.Config{Address: addr, Token: "5e1f0000-0000-0000-0000-00000000dead"}, consulkv.Options{Root: root})
	defer wrong.Close()
	_, err = wrong.Put(ctx, "k", nil, backend.PutOptions{})
	want("Put with a token that does not exist", err, backend.ErrPermission)
}

// A path prefix in the address is that of a proxy in front of the agent.
func TestBehindAProxy(t *testing.T) {
	addr := servers.Shared(t, testserver.Spec{Store: testserver.Consul}).Addrs()[0]
	target := &url.URL{Scheme: "http", Host: addr}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	proxy.Transport = tr
	front := httptest.NewServer(http.StripPrefix("/consul", proxy))
	defer front.Close()
	s := consulkv.New(&api.Config{Address: front.URL + "/consul"}, consulkv.Options{Root: testserver.UniqueName(t)})
	defer s.Close()
	const key = "a b/é?&#%/=u41-"
	if _, err := s.Put(t.Context(), key, []byte("v"), backend.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(t.Context(), key, backend.GetOptions{}); err != nil || e.Key != key {
		t.Errorf("%+v, %v", e, err)
	}
}
