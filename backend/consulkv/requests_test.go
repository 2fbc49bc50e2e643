package consulkv_test

import (
	"slices"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

func TestRequests(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	rev := f.put("k", "v", backend.PutOptions{}).Revision
	for _, c := range []struct {
		what string
		want int64
		do   func() error
	}{
		{"Get", 1, func() error { _, err := f.s.Get(ctx, "k", backend.GetOptions{}); return err }},
		{"Get of a revision that was seen", 1, func() error { _, err := f.s.Get(ctx, "k", backend.GetOptions{AtLeast: rev}); return err }},
		{"GetMany of 128", 1, func() error {
			_, err := f.s.GetMany(ctx, slices.Repeat([]string{"k", "none"}, 64), backend.GetOptions{})
			return err
		}},
		{"Put", 1, func() error { _, err := f.s.Put(ctx, "k", nil, backend.PutOptions{}); return err }},
		{"Put with a TTL", 1, func() error {
			_, err := f.s.Put(ctx, "ttl", nil, backend.PutOptions{TTL: time.Hour})
			return err
		}},
		{"create", 1, func() error { _, err := f.s.Put(ctx, "new", nil, backend.PutOptions{If: backend.Absent}); return err }},
		{"read, modify, write", 2, func() error {
			e, err := f.s.Get(ctx, "k", backend.GetOptions{})
			if err == nil {
				_, err = f.s.Put(ctx, "k", e.Value, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision, KeepTTL: true})
			}
			return err
		}},
		{"Commit", 1, func() error {
			_, err := f.s.Commit(ctx, backend.Txn{
				Checks: []backend.Check{{If: backend.Absent, Key: "none"}},
				Writes: []backend.Write{{Key: "k"}, {Key: "l", TTL: time.Hour}, {Key: "new", Delete: true}},
			})
			return err
		}},
		{"Delete", 1, func() error { return f.s.Delete(ctx, "l", backend.DeleteOptions{}) }},
		{"List", 1, func() error {
			for _, err := range f.s.List(ctx, "", backend.ListOptions{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Children", 2, func() error {
			for _, err := range f.s.List(ctx, "", backend.ListOptions{Children: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Ping", 1, func() error { return f.s.Ping(ctx) }},
	} {
		before := f.net.requests.Load()
		f.noErr(c.do())
		if n := f.net.requests.Load() - before; n != c.want {
			t.Errorf("%s: %d requests, want %d", c.what, n, c.want)
		}
	}
}
