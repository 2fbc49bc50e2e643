package integration

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
)

// BenchmarkBolt compares with bbolt in another file. A get is one transaction
// that copies the value out; a list is a cursor over a prefix that copies keys
// and values out, as a program has to that keeps them.
func BenchmarkBolt(b *testing.B) {
	open := func(name string) *bbolt.DB {
		db, err := bbolt.Open(filepath.Join(b.TempDir(), name), 0o600, &bbolt.Options{Timeout: time.Second})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { db.Close() })
		return db
	}
	db, bucket := open("raw.db"), []byte("kv")
	s := kv.New(boltkv.New(open("kv.db"), boltkv.Options{}))
	b.Cleanup(func() { s.Close() })
	update := func(f func(*bbolt.Bucket) error) error {
		return db.Update(func(tx *bbolt.Tx) error {
			bk, err := tx.CreateBucketIfNotExists(bucket)
			if err != nil {
				return err
			}
			return f(bk)
		})
	}
	raw := rawClient{
		dirs: 1, perDir: 10_000,
		put: func(value []byte) error {
			return update(func(bk *bbolt.Bucket) error { return bk.Put([]byte("key"), value) })
		},
		get: func() (value []byte, err error) {
			err = db.View(func(tx *bbolt.Tx) error {
				value = bytes.Clone(tx.Bucket(bucket).Get([]byte("key")))
				return nil
			})
			return value, err
		},
		cas: func() error {
			return update(func(bk *bbolt.Bucket) error {
				if had := bk.Get([]byte("cas")); had != nil && !bytes.Equal(had, benchValue) {
					return errors.New("somebody else has written")
				}
				return bk.Put([]byte("cas"), benchValue)
			})
		},
	}
	var last pair
	keep := func(key string, value []byte) { last = pair{key, value} }
	raw.list = func() (n int, err error) {
		prefix := []byte("many/")
		err = db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucket).Cursor()
			for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
				keep(string(k), bytes.Clone(v))
				n++
			}
			return nil
		})
		return n, err
	}
	if err := raw.many(func(keys []string) error {
		return update(func(bk *bbolt.Bucket) (err error) {
			for _, key := range keys {
				err = errors.Join(err, bk.Put([]byte(key), benchValue))
			}
			return err
		})
	}); err != nil {
		b.Fatal(err)
	}
	raw.compare(b, s)
	if last.key == "" {
		b.Log("no list was run")
	}
}

// pair is what a list copies out.
type pair struct {
	key   string
	value []byte
}
