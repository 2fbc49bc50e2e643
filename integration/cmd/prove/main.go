// Command prove checks what the library promises on real servers while things break, and writes a page about it:
//
//	prove [-stores etcd,consul] [-faults kill,stall] [-ops 100000] [-soak 10m] [-seed N] [-pictures DIR] [-report FILE]
//
// It prints each round: target, fault, seed, operations so far, and how much time is left. The exit code is 1 if anything
// was violated, or the rig failed, and otherwise 2 if a history was too hard to be judged; the pictures of such histories
// are then in the directory. See package prove for what is done.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/integration/prove"
)

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func main() {
	if prove.IsChild() {
		os.Exit(prove.Child())
	}
	stores := flag.String("stores", "", "the `stores` to prove; all by default")
	ops := flag.Int("ops", 100_000, "operations for each store")
	soak := flag.Duration("soak", 10*time.Minute, "how long each target is used while what is held is measured; 0: not at all")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano())>>20, "what the faults are chosen by")
	pictures := flag.String("pictures", "proof", "the `directory` for pictures of histories that are wrong")
	faults := flag.String("faults", "", "inject only these, by name, comma-separated")
	during := flag.Duration("time", 0, "begin no round after so long; 0: as long as it takes")
	report := flag.String("report", "", "the `file` to write the page to")
	flag.Parse()

	redis.SetLogger(quiet{}) // each refused connection is a line, and faults are many
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	began := time.Now()
	p := &prove.Plan{Ops: *ops, Soak: *soak, Seed: *seed, Dir: *pictures, Log: func(format string, args ...any) {
		fmt.Printf("%8s  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, args...))
	}}
	if *during > 0 {
		p.Until = began.Add(*during)
	}
	if *stores != "" {
		p.Stores = strings.Split(*stores, ",")
	}
	if *faults != "" {
		p.Faults = strings.Split(*faults, ",")
	}
	fmt.Printf("seed %d\n", *seed)
	tallies := p.Run(ctx)
	page := p.Report(tallies, began)
	fmt.Print("\n", page)
	if *report != "" {
		if err := os.WriteFile(*report, []byte(page), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "prove:", err)
			os.Exit(1)
		}
	}
	if ctx.Err() != nil || prove.Failed(tallies) {
		os.Exit(1)
	}
	if prove.Unchecked(tallies) {
		fmt.Fprintln(os.Stderr, "prove: nothing is wrong in what could be checked, but not everything could")
		os.Exit(2)
	}
}
