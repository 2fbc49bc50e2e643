// Command anystore tells the quickstart's story on the store that a URL names:
//
//	go run ./examples/anystore etcd://127.0.0.1:2379/demo
//	go run ./examples/anystore consul://127.0.0.1:8500/demo
//	go run ./examples/anystore zookeeper://127.0.0.1:2181/demo
//	go run ./examples/anystore redis://127.0.0.1:6379/demo
//	go run ./examples/anystore bolt://./demo.db
//
// What it prints is the same for each of them, but for the revisions.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/examples/story"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: anystore URL, such as etcd://127.0.0.1:2379/demo")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "anystore:", err)
		os.Exit(1)
	}
}

// stores are the drivers that are compiled in. What a URL cannot carry, a TLS
// configuration say, would stand in their fields.
func stores() kv.Drivers {
	return kv.Drivers{
		etcdkv.Driver{}, consulkv.Driver{}, zookeeperkv.Driver{}, rediskv.Driver{}, boltkv.Driver{},
	}
}

func run(ctx context.Context, out io.Writer, url string) error {
	s, err := stores().Open(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	return story.Tell(ctx, out, s)
}
