package memkv_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
)

func Example() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()

	e, err := s.Put(ctx, "greeting", []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := s.Update(ctx, "greeting", []byte("hello, world"), e.Revision); err != nil {
		log.Fatal(err)
	}
	for e, err := range s.List(ctx, "") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s = %s\n", e.Key, e.Value)
	}
	// Output: greeting = hello, world
}

// Peers are to one store what processes are to a server.
func ExampleStore_Peer() {
	ctx := context.Background()
	memory := memkv.New(memkv.Options{})
	defer memory.Close()
	a, b := kv.New(memory.Peer()), kv.New(memory.Peer())
	defer b.Close()

	if _, err := a.Register(ctx, "members/a", nil, 10*time.Second); err != nil {
		log.Fatal(err)
	}
	_ = a.Close() // and its registrations go
	there, err := b.Exists(ctx, "members/a")
	fmt.Println(there, err)
	// Output: false <nil>
}
