package consulkv_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/internal/keys"
	"github.com/polykv/kv/internal/testserver"
)

func TestConformance(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Consul})
	addr := srv.Addrs()[0]
	var net network
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store { return net.open(t, addr, root) },
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			client, err := api.NewClient(&api.Config{Address: addr, HttpClient: new(network).client(t)})
			if err != nil {
				t.Fatal(err)
			}
			return foreign{client.KV(), root}
		},
		Requests: net.requests.Load,
		Restart: func(t testing.TB) {
			if err := srv.Kill(0); err != nil {
				t.Fatal(err)
			}
			if err := srv.Restart(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		},
		// A server that was restarted has a process, and its watcher, anew.
		Leaks: []goleak.Option{goleak.IgnoreAnyFunction("github.com/polykv/kv/internal/testserver.(*process).run")},
		Break: func(testing.TB) { net.cut() },
		Pause: func(t testing.TB) func() {
			if err := srv.Pause(0); err != nil {
				t.Fatal(err)
			}
			resume := sync.OnceFunc(func() {
				if err := srv.Resume(0); err != nil {
					t.Error(err)
				}
			})
			t.Cleanup(resume)
			silent(t, addr)
			return resume
		},
	})
}

// silent waits until the server does not answer: a signal takes its time.
func silent(t testing.TB, addr string) {
	client := new(network).client(t)
	client.Timeout = 200 * time.Millisecond
	for range 50 {
		resp, err := client.Get("http://" + addr + "/v1/status/leader")
		if err != nil {
			return
		}
		resp.Body.Close()
	}
	t.Fatal("the server does not stop")
}

// foreign is another program's view, through the client's own calls.
type foreign struct {
	kv   *api.KV
	root string
}

func (f foreign) name(key string) string { return f.root + "/" + keys.Consul().Encode(key) }

func (f foreign) Put(ctx context.Context, key string, value []byte) error {
	_, err := f.kv.Put(&api.KVPair{Key: f.name(key), Value: value}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

func (f foreign) PutName(ctx context.Context, name string, value []byte) error {
	if !utf8.ValidString(name) {
		return errors.ErrUnsupported // JSON cannot say it, and the agent refuses such a URL
	}
	// The transaction endpoint takes names that the URL cannot carry.
	ok, _, _, err := f.kv.Txn(api.KVTxnOps{{Verb: api.KVSet, Key: f.root + "/" + name, Value: value}}, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && !ok {
		err = backend.ErrInvalidKey
	}
	return err
}

func (f foreign) Get(ctx context.Context, key string) ([]byte, bool, error) {
	p, _, err := f.kv.Get(f.name(key), (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil || p == nil {
		return nil, false, err
	}
	return p.Value, true, nil
}

func (f foreign) Delete(ctx context.Context, key string) error {
	_, err := f.kv.Delete(f.name(key), (&api.WriteOptions{}).WithContext(ctx))
	return err
}
