package consulkv

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
)

// An agent that falls silent once the session is made holds a call up for its dial timeout, not until the session is
// gone.
func TestSilentAfterTheSession(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not notice that the client has gone
		w.Header().Set("X-Consul-Index", "1")
		switch {
		case strings.HasSuffix(r.URL.Path, "/session/create"):
			io.WriteString(w, `{"ID":"one"}`)
		case strings.HasSuffix(r.URL.Path, "/version"):
			io.WriteString(w, `[{"Key":"r=kv/version","Value":"MQ==","ModifyIndex":1}]`)
		default:
			<-r.Context().Done()
		}
	}))
	defer agent.Close()
	s := New(&api.Config{Address: agent.URL}, Options{Root: "r", DialTimeout: 50 * time.Millisecond})
	defer s.Close()
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"Contend":  func() error { _, err := s.Contend(ctx, "l", backend.ContendOptions{}); return err },
		"Register": func() error { _, err := s.Register(ctx, "k", nil, backend.RegisterOptions{}); return err },
	} {
		began := time.Now()
		err := call()
		if took := time.Since(began); took > 10*time.Second { // a lease is 20 s
			t.Errorf("%s took %v", what, took)
		}
		if !errors.Is(err, backend.ErrUncertain) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// R38: more calls than may be under way wait for a silent agent no longer than twice the dial timeout: for a place, and
// for an answer.
func TestManyCallsWhileTheAgentIsSilent(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer agent.Close()
	s := New(&api.Config{Address: agent.URL}, Options{Root: "r", DialTimeout: time.Second})
	defer s.Close()
	pace.Best(t, 5*time.Second, "the last", func() time.Duration {
		return pace.Timed(func() {
			var all sync.WaitGroup
			for range 8 * maxInFlight {
				all.Go(func() {
					if _, err := s.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
	})
}
