package boltkv_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/backend/boltkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openDB(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// foreign is a program that knows nothing of this library.
type foreign struct {
	db     func() *bbolt.DB
	bucket string
}

func (f foreign) Put(_ context.Context, key string, value []byte) error {
	return f.db().Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(f.bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), value)
	})
}

func (f foreign) PutName(ctx context.Context, name string, value []byte) error {
	return f.Put(ctx, name, value)
}

func (f foreign) Get(_ context.Context, key string) (value []byte, found bool, err error) {
	err = f.db().View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(f.bucket)); b != nil {
			if v := b.Get([]byte(key)); v != nil {
				value, found = append([]byte{}, v...), true
			}
		}
		return nil
	})
	return value, found, err
}

func (f foreign) Delete(_ context.Context, key string) error {
	return f.db().Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(f.bucket)); b != nil {
			return b.Delete([]byte(key))
		}
		return nil
	})
}

func conformance(t *testing.T, o boltkv.Options, noSync bool) {
	path := filepath.Join(t.TempDir(), "kv.db")
	openDB := func(t testing.TB, path string) *bbolt.DB {
		db := openDB(t, path)
		db.NoSync = noSync
		return db
	}
	db := openDB(t, path)
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
				if s.Ping(context.Background()) == nil {
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
		Foreign: func(_ testing.TB, root string) backendtest.Foreign { return foreign{current, root} },
		Reopen: func(t testing.TB) {
			mu.Lock()
			defer mu.Unlock()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			clear(roots)
			db = openDB(t, path)
		},
	})
}

// The file is synced as it is for users, whose writes then gather while one is
// being synced.
func TestConformance(t *testing.T) { conformance(t, boltkv.Options{}, false) }

// What History adds has nothing to do with syncing. TestKill looks after that.
func TestConformanceWithHistory(t *testing.T) {
	conformance(t, boltkv.Options{History: &boltkv.History{}}, true)
}
