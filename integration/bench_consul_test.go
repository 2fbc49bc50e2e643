package integration

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-cleanhttp"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

// BenchmarkConsul compares with consistent reads. A put is a transaction of one
// write, the only one that tells the new version; a watch is a blocking query.
func BenchmarkConsul(b *testing.B) {
	addr := servers.Shared(b, testserver.Spec{Store: testserver.Consul}).Addrs()[0]
	transport := cleanhttp.DefaultPooledTransport()
	b.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: addr, Transport: transport})
	if err != nil {
		b.Fatal(err)
	}
	root, c := testserver.UniqueName(b), client.KV()
	s := kv.New(consulkv.New(&api.Config{Address: addr}, consulkv.Options{Root: root}))
	b.Cleanup(func() { s.Close() })
	consistent := &api.QueryOptions{RequireConsistent: true}
	var writes uint64 // tells them apart: Consul takes a repeated value for no write
	write := func(verb api.KVOp, name string, value []byte, at uint64) (uint64, error) {
		writes++
		ok, resp, _, err := c.Txn(api.KVTxnOps{{
			Verb: verb, Key: root + "-raw/" + name, Value: value, Flags: writes, Index: at,
		}}, nil)
		switch {
		case err != nil:
			return 0, err
		case !ok:
			return 0, errors.New("somebody else has written")
		}
		return resp.Results[0].ModifyIndex, nil
	}
	version := uint64(0)
	raw := rawClient{
		dirs: 10, perDir: 200,
		put: func(value []byte) error { _, err := write(api.KVSet, "key", value, 0); return err },
		get: func() ([]byte, error) {
			p, _, err := c.Get(root+"-raw/key", consistent)
			if err != nil {
				return nil, err
			}
			return p.Value, nil
		},
		stale: func() error {
			_, _, err := c.Get(root+"-raw/key", &api.QueryOptions{AllowStale: true})
			return err
		},
		cas: func() (err error) {
			version, err = write(api.KVCAS, "cas", benchValue, version)
			return err
		},
		list: func() (int, error) {
			all, _, err := c.List(root+"/many/", consistent)
			return len(all), err
		},
		watch: func(b *testing.B) func() error {
			_, meta, err := c.Get(root+"-raw/key", consistent)
			if err != nil {
				b.Fatal(err)
			}
			index := meta.LastIndex
			return func() error {
				for seen := index; index == seen; {
					_, meta, err := c.Get(root+"-raw/key", &api.QueryOptions{WaitIndex: index})
					if err != nil {
						return err
					}
					index = meta.LastIndex
				}
				return nil
			}
		},
	}
	raw.compare(b, s)
}
