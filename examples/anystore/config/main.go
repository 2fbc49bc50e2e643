// Command config has a service follow its configuration on the store that a URL
// names:
//
//	go run ./examples/anystore/config etcd://127.0.0.1:2379/demo
//	go run ./examples/anystore/config consul://127.0.0.1:8500/demo
//	go run ./examples/anystore/config zookeeper://127.0.0.1:2181/demo
//	go run ./examples/anystore/config redis://127.0.0.1:6379/demo
//	go run ./examples/anystore/config bolt://./demo.db
//
// What it prints is the same for each of them.
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
	"github.com/polykv/kv/examples/config/follow"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: config URL, such as etcd://127.0.0.1:2379/demo")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "config:", err)
		os.Exit(1)
	}
}

// stores are the drivers that are compiled in.
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
	return follow.Tell(ctx, out, s)
}
