package consulkv_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/keys"
	"github.com/polykv/kv/internal/testserver"
)

// counter counts requests.
type counter struct {
	next http.RoundTripper
	n    atomic.Int64
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.next.RoundTrip(r)
}

// transport is a transport of the test's own, closed with it.
func transport(t testing.TB) *http.Transport {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost = 64
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func open(t testing.TB, addr, root string) *consulkv.Store {
	return consulkv.New(&api.Config{Address: addr}, consulkv.Options{Root: root})
}

func TestConformance(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Consul})
	addr := srv.Addrs()[0]
	count := &counter{next: transport(t)}
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			return consulkv.New(&api.Config{Address: addr, HttpClient: &http.Client{Transport: count}}, consulkv.Options{Root: root})
		},
		Foreign: func(t testing.TB, root string) backendtest.Foreign {
			conf := &api.Config{Address: addr, HttpClient: &http.Client{Transport: transport(t)}}
			client, err := api.NewClient(conf)
			if err != nil {
				t.Fatal(err)
			}
			return foreign{client.KV(), root}
		},
		Requests: count.n.Load,
	})
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
