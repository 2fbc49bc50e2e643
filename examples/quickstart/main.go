// Command quickstart tells the story of a service registry on a bbolt file in a
// temporary directory. It needs nothing but Go:
//
//	go run ./examples/quickstart
//
// The story itself is in package examples/story, and runs on any store.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/examples/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "quickstart-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	db, err := bbolt.Open(filepath.Join(dir, "quickstart.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()

	s := kv.New(boltkv.New(db, boltkv.Options{}))
	defer s.Close() // closes the store, and not the file, which it did not open
	return story.Tell(ctx, out, s)
}
