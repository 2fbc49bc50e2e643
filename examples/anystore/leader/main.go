// Command leader has three processes stand for election on the store that a URL
// names, kills the leader and pauses the next one:
//
//	go run ./examples/anystore/leader etcd://127.0.0.1:2379/demo
//	go run ./examples/anystore/leader consul://127.0.0.1:8500/demo
//	go run ./examples/anystore/leader 'zookeeper://127.0.0.1:2181/demo?session=4s'
//	go run ./examples/anystore/leader redis://127.0.0.1:6379/demo
//
// Each candidate is this program again. A lock of a bbolt file excludes within one
// process only, which examples/leader shows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/examples/leader/vote"
)

func main() {
	lease := flag.Duration("lease", 2*time.Second, "how long a leader may be silent; a store may ask for more")
	name := flag.String("stand", "", "be the candidate of that `name`")
	under := flag.String("under", "", "the `prefix` of the election, with -stand")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: leader [-lease 2s] URL, such as etcd://127.0.0.1:2379/demo")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	var err error
	if *name != "" {
		err = stand(ctx, os.Stdin, flag.Arg(0), *under, *name, *lease)
	} else {
		err = run(ctx, os.Stdout, flag.Arg(0), *lease)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

// stores are the drivers that are compiled in.
func stores() kv.Drivers {
	return kv.Drivers{
		etcdkv.Driver{}, consulkv.Driver{}, zookeeperkv.Driver{}, rediskv.Driver{}, boltkv.Driver{},
	}
}

// run tells the story, with processes of this program as candidates.
func run(ctx context.Context, out io.Writer, url string, lease time.Duration) error {
	s, err := stores().Open(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	if !s.Capabilities().CrossProcessLock {
		return fmt.Errorf("locks of %s exclude within one process only: %w", s.Capabilities().Name, errors.ErrUnsupported)
	}
	under := fmt.Sprintf("election-%x", time.Now().UnixNano())
	return vote.Tell(ctx, out, s.Sub(under), lease, func(name string) (vote.Member, error) {
		return startProcess("-stand", name, "-under", under, "-lease", lease.String(), url)
	})
}

// stand is what a candidate's process does, until its standard input ends: that is when the parent has ended.
func stand(ctx context.Context, commands io.Reader, url, under, name string, lease time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := stores().Open(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	resign := make(chan struct{}, 1)
	go func() { // ends with the process, or its input
		defer cancel()
		for b := make([]byte, 1); ; {
			if _, err := commands.Read(b); err != nil {
				return
			}
			resign <- struct{}{}
		}
	}()
	err = vote.Stand(ctx, s.Sub(under), name, lease, resign)
	if ctx.Err() != nil {
		return nil
	}
	return err
}
