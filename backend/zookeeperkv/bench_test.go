package zookeeperkv

import (
	"fmt"
	"testing"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/testserver"
)

// The benchmarks run the client itself and the driver side by side against one server: only ratios mean anything.

func setup(b *testing.B) (*Store, *zk.Conn, string) {
	addr := shared(b)
	root := testserver.UniqueName(b)
	s, c := open(b, addr, root, Options{}), raw(b, addr)
	b.Cleanup(func() {
		if _, err := s.DeletePrefix(b.Context(), ""); err != nil {
			b.Log(err)
		}
	})
	return s, c, "/" + root
}

func BenchmarkGet(b *testing.B) {
	s, c, root := setup(b)
	if _, err := s.Put(b.Context(), "k", make([]byte, 256), backend.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("raw", func() error { _, _, err := c.Get(root + "/k"); return err })
	run("raw sync and get", func() error {
		if _, err := c.Sync(root); err != nil {
			return err
		}
		_, _, err := c.Get(root + "/k")
		return err
	})
	run("stale", func() error {
		_, err := s.Get(b.Context(), "k", backend.GetOptions{Stale: true})
		return err
	})
	run("linearizable", func() error {
		_, err := s.Get(b.Context(), "k", backend.GetOptions{})
		return err
	})
}

func BenchmarkPut(b *testing.B) {
	s, c, root := setup(b)
	value := make([]byte, 256)
	if _, err := s.Put(b.Context(), "k", value, backend.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Run("raw set", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Set(root+"/k", value, -1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Put(b.Context(), "k", value, backend.PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		e, err := s.Get(b.Context(), "k", backend.GetOptions{})
		for b.Loop() {
			if err != nil {
				b.Fatal(err)
			}
			e, err = s.Put(b.Context(), "k", value, backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
		}
	})
	n := 0
	b.Run("raw create", func(b *testing.B) {
		for b.Loop() {
			n++
			if _, err := c.Create(fmt.Sprintf("%s/r%d", root, n), value, 0, zk.WorldACL(zk.PermAll)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			n++
			if _, err := s.Put(b.Context(), fmt.Sprintf("c%d", n), value, backend.PutOptions{If: backend.Absent}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// 2,000 keys of 256 bytes in ten directories.
func BenchmarkList(b *testing.B) {
	s, c, root := setup(b)
	for d := range 10 {
		t := backend.Txn{}
		for i := range 200 {
			t.Writes = append(t.Writes, backend.Write{Key: fmt.Sprintf("d%d/key-%03d", d, i), Value: make([]byte, 256)})
			if len(t.Writes) == backend.MaxTxnOps || i == 199 {
				if _, err := s.Commit(b.Context(), t); err != nil {
					b.Fatal(err)
				}
				t.Writes = nil
			}
		}
	}
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			dirs, _, err := c.Children(root)
			if err != nil {
				b.Fatal(err)
			}
			for _, d := range dirs {
				names, _, err := c.Children(root + "/" + d)
				if err != nil {
					b.Fatal(err)
				}
				for _, name := range names {
					if _, _, err := c.Get(root + "/" + d + "/" + name); err != nil {
						b.Fatal(err)
					}
				}
			}
		}
	})
	list := func(b *testing.B, o backend.ListOptions) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for _, err := range s.List(b.Context(), "", o) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != 2000 {
				b.Fatalf("%d keys", n)
			}
		}
	}
	b.Run("list", func(b *testing.B) { list(b, backend.ListOptions{}) })
	b.Run("keys", func(b *testing.B) { list(b, backend.ListOptions{KeysOnly: true}) })
}

func BenchmarkLock(b *testing.B) {
	s, c, root := setup(b)
	if _, err := s.Contend(b.Context(), "warm", backend.ContendOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Run("zk.Lock", func(b *testing.B) {
		for b.Loop() {
			l := zk.NewLock(c, root+"/lock", zk.WorldACL(zk.PermAll))
			if err := l.Lock(); err != nil {
				b.Fatal(err)
			}
			if err := l.Unlock(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("contend", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l, err := s.Contend(b.Context(), "lock", backend.ContendOptions{})
			if err == nil {
				err = l.Wait(b.Context())
			}
			if err == nil {
				err = l.Release(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
