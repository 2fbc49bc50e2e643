package boltkv_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
)

// A database that the program has open is shared.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := bbolt.Open(filepath.Join(dir, "app.db"), 0o600, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	s := kv.New(boltkv.New(db, boltkv.Options{Root: "settings"}))
	defer s.Close()
	if _, err := s.Put(ctx, "theme/color", []byte("green")); err != nil {
		log.Fatal(err)
	}

	// The value is what bbolt has under the key.
	err = db.View(func(tx *bbolt.Tx) error {
		fmt.Printf("%s\n", tx.Bucket([]byte("settings")).Get([]byte("theme/color")))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: green
}

// A file is opened from a URL, here with a history that outlives the process.
func ExampleDriver() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	stores := kv.Drivers{boltkv.Driver{}}
	url := "bolt://" + filepath.ToSlash(dir) + "/app.db?bucket=settings&history=true"
	var token kv.Token
	for range 2 { // as if the program was run twice
		s, err := stores.Open(ctx, url)
		if err != nil {
			log.Fatal(err)
		}
		var opts []kv.WatchOption
		if token != "" {
			opts = append(opts, kv.Resume(token))
		}
		w, err := s.Watch(ctx, "", opts...)
		if err != nil {
			log.Fatal(err)
		}
		if token == "" {
			for _, color := range []string{"green", "blue"} {
				if _, err := s.Put(ctx, "color", []byte(color)); err != nil {
					log.Fatal(err)
				}
			}
		}
		ev, err := w.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %s=%s\n", ev.Kind, ev.Key, ev.Value)
		token = ev.Token
		if err := s.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// created color=green
	// updated color=blue
}
