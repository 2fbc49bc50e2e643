// Package conformance has the conformance suite for bbolt files. Package boltkv runs it without History, and the tests of
// this package with it: beside each other, for each takes most of a minute.
package conformance

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/boltkv"
)

// OpenDB opens a file, for which it waits ten seconds.
func OpenDB(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// Foreign is a program that knows nothing of this library.
type Foreign struct {
	DB     func() *bbolt.DB // the one that is open
	Bucket string
}

// Put implements backendtest.Foreign.
func (f Foreign) Put(_ context.Context, key string, value []byte) error {
	return f.DB().Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(f.Bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), value)
	})
}

// PutName implements backendtest.Foreign.
func (f Foreign) PutName(ctx context.Context, name string, value []byte) error {
	return f.Put(ctx, name, value)
}

// Get implements backendtest.Foreign.
func (f Foreign) Get(_ context.Context, key string) (value []byte, found bool, err error) {
	err = f.DB().View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(f.Bucket)); b != nil {
			if v := b.Get([]byte(key)); v != nil {
				value, found = append([]byte{}, v...), true
			}
		}
		return nil
	})
	return value, found, err
}

// Delete implements backendtest.Foreign.
func (f Foreign) Delete(_ context.Context, key string) error {
	return f.DB().Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(f.Bucket)); b != nil {
			return b.Delete([]byte(key))
		}
		return nil
	})
}

// Run runs the suite. With noSync nothing is synced, as what is asked has nothing to do with that.
func Run(t *testing.T, o boltkv.Options, noSync bool) {
	path := filepath.Join(t.TempDir(), "kv.db")
	open := func() *bbolt.DB {
		db := OpenDB(t, path)
		db.NoSync = noSync
		return db
	}
	db := open()
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	var mu sync.Mutex
	roots := map[string][]*boltkv.Store{} // that are open
	current := func() *bbolt.DB {
		mu.Lock()
		defer mu.Unlock()
		return db
	}
	backendtest.Run(t, backendtest.Harness{
		Open: func(t testing.TB, root string) backend.Store {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range roots[root] {
				if s.Ping(context.Background()) == nil { // which asks nobody
					p := s.Peer()
					roots[root] = append(roots[root], p)
					return p
				}
			}
			o := o
			o.Root = root
			s := boltkv.New(db, o)
			roots[root] = []*boltkv.Store{s}
			return s
		},
		Foreign: func(_ testing.TB, root string) backendtest.Foreign { return Foreign{current, root} },
		Reopen: func(t testing.TB) {
			mu.Lock()
			defer mu.Unlock()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			clear(roots)
			db = open()
		},
	})
}
