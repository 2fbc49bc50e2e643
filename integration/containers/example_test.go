package containers_test

import (
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/integration/containers"
)

// Save is what a program might have to test.
func Save(t *testing.T, store *kv.Store) error {
	_, err := store.Put(t.Context(), "orders/1", []byte("two of them"))
	return err
}

// A store on a server of its own takes one line.
func ExampleOpen() {
	TestSave := func(t *testing.T) {
		store := containers.Open(t, etcdkv.Driver{})
		if err := Save(t, store); err != nil {
			t.Error(err)
		}
	}
	_ = TestSave // go test calls it
}

// A test can take servers away while the program uses the store.
func ExampleStart() {
	TestSaveSurvivesFailover := func(t *testing.T) {
		server := containers.Start(t, containers.Redis, containers.Sentinel())
		store := server.Open(t, rediskv.Driver{}, "shop")
		if err := server.Kill(0); err != nil { // the primary
			t.Fatal(err)
		}
		for Save(t, store) != nil && t.Context().Err() == nil {
			// until a replica has taken over
		}
	}
	_ = TestSaveSurvivesFailover
}
