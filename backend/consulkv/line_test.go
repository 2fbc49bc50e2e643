package consulkv

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/internal/backoff"
)

// Who waits for a slot reads the queue when it has changed, not whenever a held read's time is up.
func TestSlotIsWaitedForWithoutReadingTheQueue(t *testing.T) {
	reads := 0
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("index") != "7" {
			t.Errorf("read %d asks for %v", reads, r.URL)
		}
		index := "7"
		if reads++; reads == 3 {
			index = "8"
		}
		w.Header().Set("X-Consul-Index", index)
		w.Write([]byte("[]"))
	}))
	defer agent.Close()
	s := New(&api.Config{Address: agent.URL}, Options{Root: "r"})
	defer s.Close()
	l := &line{s: s, prefix: "r=kv/locks/l/"}
	l.await(t.Context(), "", 7, new(backoff.Backoff))
	if reads != 3 {
		t.Errorf("woke after %d held reads, of which the third brings a change", reads)
	}
}
