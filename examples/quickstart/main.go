// Command quickstart tells the story of a service registry on a store in
// memory. It needs nothing but Go:
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/examples/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	return story.Tell(ctx, os.Stdout, s)
}
