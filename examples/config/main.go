// Command config has a service follow its configuration, on a bbolt file in a
// temporary directory. It needs nothing but Go:
//
//	go run ./examples/config
//
// The service itself is in package follow, and runs on any store.
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
	"github.com/polykv/kv/examples/config/follow"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "config:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "config-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	db, err := bbolt.Open(filepath.Join(dir, "config.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()

	s := kv.New(boltkv.New(db, boltkv.Options{}))
	defer s.Close()
	return follow.Tell(ctx, out, s)
}
