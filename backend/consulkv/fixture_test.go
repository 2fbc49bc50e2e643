package consulkv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

// patience is less than a lease, with which much of what is waited for would come by itself.
const patience = 15 * time.Second

// fixture is a store on the shared server, beside a plain client.
type fixture struct {
	*testing.T
	net  *network
	s    *consulkv.Store
	root string
	kv   *api.Client
	addr string

	stalls *pace.Stalls // when the machine stood still
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, net: new(network), root: testserver.UniqueName(t), stalls: pace.Watch(t)}
	f.addr = servers.Shared(t, testserver.Spec{Store: testserver.Consul}).Addrs()[0]
	f.s = f.net.open(t, f.addr, f.root)
	f.Cleanup(func() { f.s.Close() })
	client, err := api.NewClient(&api.Config{Address: f.addr, HttpClient: new(network).client(t)})
	f.noErr(err)
	f.kv = client
	return f
}

func (f *fixture) noErr(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wantErr(err error, want ...error) {
	f.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			f.Fatalf("got error %v, want %v", err, w)
		}
	}
}

func (f *fixture) put(key, value string, o backend.PutOptions) backend.Entry {
	f.Helper()
	e, err := f.s.Put(f.Context(), key, []byte(value), o)
	f.noErr(err)
	return e
}

func (f *fixture) next(w backend.Watch) backend.Event {
	f.Helper()
	ctx, cancel := f.soon()
	defer cancel()
	ev, err := w.Next(ctx)
	f.noErr(err)
	return ev
}

// soon ends after ten seconds, less than patience and than a read is held for, on a machine that runs.
func (f *fixture) soon() (context.Context, context.CancelFunc) {
	return f.stalls.Timeout(f.Context(), 10*time.Second)
}

// eventually waits until cond holds.
func (f *fixture) eventually(what string, cond func() bool) {
	f.Helper()
	f.stalls.Eventually(f, patience, what, cond)
}

func (f *fixture) sessions() int {
	all, _, err := f.kv.Session().List(nil)
	f.noErr(err)
	return len(all)
}
