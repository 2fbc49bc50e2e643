package etcdkv

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/polykv/kv/backend"
)

// Each benchmark runs the client alone and this package in turn, on one
// connection, and reports the ratio of the medians: the machine's noise hits
// both alike.

func compare(b *testing.B, raw, ours func(i int) error) {
	b.Helper()
	var took [2][]time.Duration
	for i := 0; b.Loop(); i++ {
		for j, f := range []func(int) error{raw, ours} {
			start := time.Now()
			if err := f(i); err != nil {
				b.Fatal(err)
			}
			took[j] = append(took[j], time.Since(start))
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds())
	}
	r, o := median(took[0]), median(took[1])
	b.ReportMetric(r, "raw-µs")
	b.ReportMetric(o, "ours-µs")
	b.ReportMetric(o/r, "ratio")
	b.ReportMetric(0, "ns/op")
}

var value = make([]byte, 256)

func BenchmarkPut(b *testing.B) {
	s, ctx := open(b, Options{}), context.Background()
	raw := func(i int) error { _, err := s.client.Put(ctx, s.space.Name("raw"), string(value)); return err }
	for name, o := range map[string]backend.PutOptions{"Always": {}, "Present": {If: backend.Present}} {
		b.Run(name, func(b *testing.B) {
			compare(b, raw, func(int) error { _, err := s.Put(ctx, "raw", value, o); return err })
		})
	}
	b.Run("AtRevision", func(b *testing.B) {
		e, err := s.Put(ctx, "cas", value, backend.PutOptions{})
		if err != nil {
			b.Fatal(err)
		}
		resp, err := s.client.Put(ctx, s.space.Name("raw"), string(value))
		if err != nil {
			b.Fatal(err)
		}
		rev := resp.Header.Revision
		compare(b, func(int) error {
			key := s.space.Name("raw")
			resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
				Then(clientv3.OpPut(key, string(value))).Else(clientv3.OpGet(key)).Commit()
			rev = resp.Header.Revision
			return err
		}, func(int) (err error) {
			e, err = s.Put(ctx, "cas", value, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
			return err
		})
	})
	b.Run("TTL", func(b *testing.B) {
		lease, err := s.client.Grant(ctx, 60)
		if err != nil {
			b.Fatal(err)
		}
		compare(b, func(int) error {
			_, err := s.client.Put(ctx, s.space.Name("raw"), string(value), clientv3.WithLease(lease.ID))
			return err
		}, func(int) error {
			_, err := s.Put(ctx, "ttl", value, backend.PutOptions{TTL: time.Minute})
			return err
		})
	})
}

func BenchmarkGet(b *testing.B) {
	s, ctx := open(b, Options{}), context.Background()
	if _, err := s.Put(ctx, "k", value, backend.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	compare(b, func(int) error { _, err := s.client.Get(ctx, s.space.Name("k")); return err },
		func(int) error { _, err := s.Get(ctx, "k", backend.GetOptions{}); return err })
}

func BenchmarkLock(b *testing.B) {
	s, ctx := open(b, Options{}), context.Background()
	ours := func(int) error {
		c, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute})
		if err == nil {
			err = c.Wait(ctx)
		}
		if err == nil {
			err = c.Release(ctx)
		}
		return err
	}
	lock := func(session *concurrency.Session) error {
		m := concurrency.NewMutex(session, s.space.Name("mutex"))
		err := m.Lock(ctx)
		if err == nil {
			err = m.Unlock(ctx)
		}
		return err
	}
	b.Run("session", func(b *testing.B) {
		session, err := concurrency.NewSession(s.client)
		if err != nil {
			b.Fatal(err)
		}
		defer session.Close()
		compare(b, func(int) error { return lock(session) }, ours)
	})
	b.Run("newSession", func(b *testing.B) {
		compare(b, func(int) error {
			session, err := concurrency.NewSession(s.client)
			if err != nil {
				return err
			}
			defer session.Close()
			return lock(session)
		}, ours)
	})
}

// BenchmarkList is how pages were chosen: see scan.
func BenchmarkList(b *testing.B) {
	s, ctx := open(b, Options{}), context.Background()
	const n = 100_000
	for i := 0; i < n; i += 128 {
		var req pb.TxnRequest
		for j := i; j < min(i+128, n); j++ {
			req.Success = append(req.Success, putOp(&pb.PutRequest{Key: []byte(s.space.Name(fmt.Sprintf("%06d", j))), Value: value}))
		}
		if _, err := call(ctx, s, writes, s.kv.Txn, &req); err != nil {
			b.Fatal(err)
		}
	}
	count := func(b *testing.B, list func(page func([]*mvccpb.KeyValue) bool) error) {
		for b.Loop() {
			got := 0
			if err := list(func(kvs []*mvccpb.KeyValue) bool { got += len(kvs); return true }); err != nil || got != n {
				b.Fatal(got, err)
			}
		}
	}
	sp := s.span("")
	b.Run("stream", func(b *testing.B) {
		count(b, func(page func([]*mvccpb.KeyValue) bool) error {
			return s.scanStream(ctx, &pb.RangeRequest{Key: sp.from, RangeEnd: sp.to}, page)
		})
	})
	b.Run("pages", func(b *testing.B) {
		count(b, func(page func([]*mvccpb.KeyValue) bool) error {
			return s.scanPages(ctx, &pb.RangeRequest{Key: sp.from, RangeEnd: sp.to}, page)
		})
	})
	b.Run("raw pages of 1000", func(b *testing.B) {
		for b.Loop() {
			key, got, rev := string(sp.from), 0, int64(0)
			for {
				resp, err := s.client.Get(ctx, key, clientv3.WithRange(string(sp.to)), clientv3.WithLimit(1000), clientv3.WithRev(rev))
				if err != nil {
					b.Fatal(err)
				}
				got += len(resp.Kvs)
				if !resp.More {
					break
				}
				key, rev = string(resp.Kvs[len(resp.Kvs)-1].Key)+"\x00", resp.Header.Revision
			}
			if got != n {
				b.Fatal(got)
			}
		}
	})
	b.Run("List", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got := 0
			for _, err := range s.List(ctx, "", backend.ListOptions{}) {
				if err != nil {
					b.Fatal(err)
				}
				got++
			}
			if got != n {
				b.Fatal(got)
			}
		}
	})
}
