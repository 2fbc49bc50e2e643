package consulkv

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
)

// The read that opens a watch was made before a Sync can be asked for, and may lack what was written before that: it does
// not answer it, also if the watch has not come to look at it.
func TestSyncIsNotAnsweredByAnOlderRead(t *testing.T) {
	lists := []string{
		`[{"Key":"r/a","CreateIndex":1,"ModifyIndex":1}]`,
		`[{"Key":"r/a","CreateIndex":1,"ModifyIndex":1},{"Key":"r/b","CreateIndex":2,"ModifyIndex":2}]`,
	}
	reads := 0
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("wait") != "" {
			<-r.Context().Done()
			return
		}
		list := lists[min(reads, 1)]
		reads++
		w.Header().Set("X-Consul-Index", fmt.Sprint(min(reads, 2)))
		fmt.Fprint(w, list)
	}))
	defer agent.Close()
	s := New(&api.Config{Address: agent.URL}, Options{Root: "r"})
	defer s.Close()
	w := s.newWatch(t.Context(), "r/", backend.WatchOptions{Snapshot: true})
	resp, err := s.fetch(w.ctx, w.name, true, consistent, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(t.Context()); err != nil { // "r/b" was written before it
		t.Fatal(err)
	}
	if !s.spawn(func() { w.run(resp, 0, snapshotPhase) }) {
		t.Fatal("closed")
	}
	defer w.Close()
	var kinds []backend.Kind
	for len(kinds) == 0 || kinds[len(kinds)-1] != backend.Progress {
		ev, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, ev.Kind)
	}
	if want := []backend.Kind{backend.Existing, backend.Synced, backend.Created, backend.Progress}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
}
