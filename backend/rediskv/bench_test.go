package rediskv_test

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// The benchmarks set the driver beside the client that it uses: only the ratio inside one run means anything.

var value256 = bytes.Repeat([]byte("v"), 256)

func BenchmarkPut(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Redis})
	ctx, client := b.Context(), newClient(b, srv)
	b.Run("client", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := client.Set(ctx, "raw/"+strconv.Itoa(i%1000), value256, 0).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("driver", func(b *testing.B) {
		s := benchStore(b, srv, 0)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := s.Put(ctx, strconv.Itoa(i%1000), value256, backend.PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Redis})
	ctx, client := b.Context(), newClient(b, srv)
	b.Run("client", func(b *testing.B) {
		if err := client.Set(ctx, "raw/k", value256, 0).Err(); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Get(ctx, "raw/k").Bytes(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("driver", func(b *testing.B) {
		s := benchStore(b, srv, 1)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(ctx, "k00000", backend.GetOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkList2000(b *testing.B) {
	srv := servers.Shared(b, testserver.Spec{Store: testserver.Redis})
	s := benchStore(b, srv, 2000)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.List(b.Context(), "", backend.ListOptions{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 2000 {
			b.Fatalf("listed %d keys", n)
		}
	}
}

// benchStore returns a store that holds n keys.
func benchStore(b *testing.B, srv *testserver.Server, n int) *rediskv.Store {
	client := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0], ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	s := rediskv.New(client, rediskv.Options{Root: testserver.UniqueName(b)})
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	for i := 0; i < n; {
		var t backend.Txn
		for range min(backend.MaxTxnOps, n-i) {
			t.Writes = append(t.Writes, backend.Write{Key: fmt.Sprintf("k%05d", i), Value: value256})
			i++
		}
		if _, err := s.Commit(b.Context(), t); err != nil {
			b.Fatal(err)
		}
	}
	return s
}
