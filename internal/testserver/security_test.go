package testserver

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// tlsAnswers sends bytes that every server answers, and reports whether one came.
func tlsAnswers(t *testing.T, s *Server, conf *tls.Config) bool {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Addrs()[0], conf)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	request := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	switch s.Store() {
	case ZooKeeper:
		request = "srvr"
	case Redis:
		request = "PING\r\n"
	}
	// A server may complain of the certificate only after the handshake, when a client of TLS 1.3 takes it to be over.
	if _, err := io.WriteString(conn, request); err != nil {
		return false
	}
	n, err := conn.Read(make([]byte, 1))
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Error("the server neither answers nor refuses")
	}
	return n == 1
}

func TestTLS(t *testing.T) {
	for _, store := range Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Spec{Store: store, TLS: true, Auth: true})
			if !tlsAnswers(t, s, s.TLS()) {
				t.Error("refused with the right certificate")
			}
			for name, change := range map[string]func(*tls.Config){
				"no certificate":        func(c *tls.Config) { c.Certificates = nil },
				"a wrong certificate":   func(c *tls.Config) { c.Certificates = s.WrongTLS().Certificates },
				"a wrong authority":     func(c *tls.Config) { c.RootCAs = s.WrongTLS().RootCAs },
				"another server's name": func(c *tls.Config) { c.ServerName = "example.org" },
			} {
				conf := s.TLS()
				change(conf)
				if tlsAnswers(t, s, conf) {
					t.Errorf("accepted with %s", name)
				}
			}
			ca, cert, key := s.TLSFiles()
			if _, err := tls.LoadX509KeyPair(cert, key); err != nil || ca == "" {
				t.Errorf("files for programs: %q, %v", ca, err)
			}
			if err := s.Restart(t.Context()); err != nil { // the probe is a client, with credentials
				t.Error(err)
			}
		})
	}
	if s := new(Server); s.TLS() != nil || s.WrongTLS() != nil {
		t.Error("a plain server has a TLS configuration")
	}
}

func TestAuth(t *testing.T) {
	tests := map[Store]func(t *testing.T, c *cluster, user Credentials, key string) bool{
		Etcd: func(t *testing.T, c *cluster, user Credentials, key string) bool {
			var login struct{ Token string }
			addr := c.client(0)
			if user != (Credentials{}) {
				err := c.call(t.Context(), http.MethodPost, addr, "/v3/auth/authenticate", "", map[string]string{
					"name": user.User, "password": user.Password,
				}, &login)
				if err != nil {
					return false
				}
			}
			return c.call(t.Context(), http.MethodPost, addr, "/v3/kv/put", login.Token, map[string]string{
				"key": base64Text(key), "value": base64Text("value"),
			}, nil) == nil
		},
		Consul: func(t *testing.T, c *cluster, user Credentials, key string) bool {
			return c.call(t.Context(), http.MethodPut, c.client(0), "/v1/kv/"+key, user.Token, "value", nil) == nil
		},
		ZooKeeper: func(t *testing.T, c *cluster, user Credentials, key string) bool {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			s, err := openZooSession(ctx, c, c.client(0))
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if user != (Credentials{}) {
				if err := s.authenticate(user); err != nil {
					t.Fatal(err) // the scheme refuses nobody: a wrong password is another identity
				}
			}
			return s.create("/"+key, user) == nil
		},
		Redis: func(t *testing.T, c *cluster, user Credentials, key string) bool {
			login := ""
			if user != (Credentials{}) {
				login = "AUTH " + user.User + " " + user.Password + "\r\n"
			}
			answer, err := c.ask(t.Context(), c.client(0), login+"SET "+key+" value\r\nQUIT\r\n")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Count(string(answer), "+OK") == strings.Count(login+"\n\n", "\n") // for each line, QUIT too
		},
	}
	for store, writes := range tests {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Spec{Store: store, Auth: true})
			stranger := newCredentials(store, s.Credentials().User)
			for _, test := range []struct {
				who  string
				user Credentials
				key  string
				want bool
			}{
				{"the administrator", s.Credentials(), "anything", true},
				{"the administrator", s.Credentials(), ForbiddenRoot + "/admin", true},
				{"the limited user", s.LimitedCredentials(), LimitedRoot + "/key", true},
				{"the limited user", s.LimitedCredentials(), ForbiddenRoot + "/limited", false},
				{"the limited user", s.LimitedCredentials(), "else", false},
				{"a stranger", stranger, "stranger", false},
				{"nobody", Credentials{}, "nobody", false},
				{"nobody", Credentials{}, LimitedRoot + "/nobody", false},
			} {
				if got := writes(t, &s.cluster, test.user, test.key); got != test.want {
					t.Errorf("%s may write %s: %t, want %t", test.who, test.key, got, test.want)
				}
			}
			// Users outlive the server that made them.
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if writes(t, &s.cluster, s.LimitedCredentials(), ForbiddenRoot+"/again") {
				t.Error("after a restart the limited user may do everything")
			}
			if !writes(t, &s.cluster, s.LimitedCredentials(), LimitedRoot+"/again") {
				t.Error("after a restart the limited user may do nothing")
			}
		})
	}
}
