// Command leader has three candidates stand for election on a bbolt file in a
// temporary directory. The leader resigns, the next one is killed, the one after
// that is paused, and writes when it is no longer the leader. It takes some
// seconds, and needs nothing but Go:
//
//	go run ./examples/leader
//
// A bbolt file belongs to one process, so the candidates are goroutines.
// examples/anystore/leader is the same with processes, on any other store. The
// story itself is in package vote.
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
	"github.com/polykv/kv/examples/leader/vote"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "leader-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	db, err := bbolt.Open(filepath.Join(dir, "leader.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()

	file := boltkv.New(db, boltkv.Options{})
	s := kv.New(file)
	defer s.Close()
	const lease = time.Second
	var all []*candidate
	defer func() {
		for _, c := range all {
			c.s.Close()
		}
	}()
	return vote.Tell(ctx, out, s.Sub("election"), lease, func(name string) (vote.Member, error) {
		c := newCandidate(ctx, file, name, lease)
		all = append(all, c)
		return c, nil
	})
}
