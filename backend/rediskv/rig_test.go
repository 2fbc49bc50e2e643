package rediskv_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

const patience = 20 * time.Second

// setup returns a store of its own root on a shared server, and a client for what other programs do there.
func setup(t *testing.T, o rediskv.Options, config ...string) (*rediskv.Store, *redis.Client) {
	t.Helper()
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: config})
	if o.Root == "" {
		o.Root = testserver.UniqueName(t)
	}
	return newStore(t, newClient(t, srv), o), newClient(t, srv)
}

func newStore(t *testing.T, client redis.UniversalClient, o rediskv.Options) *rediskv.Store {
	s := rediskv.New(client, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func put(t *testing.T, s backend.Store, key, value string, o backend.PutOptions) backend.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), o)
	if err != nil {
		t.Fatalf("Put(%q, %+v): %v", key, o, err)
	}
	return e
}

// watching watches until the test ends.
func watching(t *testing.T, s backend.Store, prefix string, o backend.WatchOptions) backend.Watch {
	t.Helper()
	w, err := s.Watch(t.Context(), prefix, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("closing a watch: %v", err)
		}
	})
	return w
}

func next(t *testing.T, w backend.Watch) backend.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ev, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return ev
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	testserver.Eventually(t, patience, what, f)
}
