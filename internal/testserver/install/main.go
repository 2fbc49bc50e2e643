// Command install builds the servers that the tests run, and the stores' own tools, so that the first test does not have
// to: all of them, or those named by its arguments. It prints the command that runs each, and fails if one cannot be had.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/polykv/kv/internal/testserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	stores := testserver.Stores()
	if len(os.Args) > 1 {
		stores = nil
		for _, name := range os.Args[1:] {
			stores = append(stores, testserver.Store(name))
		}
	}
	failed := false
	for _, store := range stores {
		for _, install := range []func(context.Context, testserver.Store) ([]string, error){testserver.Install, testserver.InstallTool} {
			argv, err := install(ctx, store)
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", store, err)
				failed = true
				continue
			}
			fmt.Printf("%s: %s\n", store, strings.Join(argv, " "))
		}
	}
	if failed {
		os.Exit(1)
	}
}
