package consulkv_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
)

// Who gives a read up ends nobody else's. net/http puts a connection back before it hands on an answer that has no body,
// such as Consul's for a key that is not there, and closes it when the reader is found to have gone in between: with the
// request of whoever has it by then.
func TestReadsEndedByOthers(t *testing.T) {
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer agent.Close()
	s := consulkv.New(&api.Config{Address: agent.URL}, consulkv.Options{})
	defer s.Close()
	until := time.Now().Add(2 * time.Second)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			var took time.Duration
			for time.Now().Before(until) {
				ctx, cancel := context.WithTimeout(t.Context(), max(took, 50*time.Microsecond))
				began := time.Now()
				_, err := s.Get(ctx, "k", backend.GetOptions{})
				cancel()
				if took = time.Since(began); !errors.Is(err, context.DeadlineExceeded) {
					took -= took / 8 // ends as the answer comes, or nearly so
				}
			}
		})
		work.Go(func() {
			for time.Now().Before(until) {
				if _, err := s.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
}
