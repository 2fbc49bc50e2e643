package lock_test

import (
	"context"
	"fmt"
	"log"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/lock"
)

// One process at a time works, and the store itself refuses what one that no
// longer leads still writes.
func ExampleElection_Lead() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()

	// README:
	election := lock.NewElection(s, "nightly")
	err := election.Lead(ctx, "host-1", func(ctx context.Context, l *lock.Leadership) error {
		// ctx ends when the lead is lost. Until this process knows, the check protects what it writes.
		_, err := s.Put(ctx, "report", []byte("done"), kv.If(l.Check()))
		return err
	})
	// END
	if err != nil {
		log.Fatal(err)
	}
	e, err := s.Get(ctx, "report")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(e.Value))
	// Output: done
}

func ExampleDo() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	err := lock.Do(ctx, s, "inventory", func(ctx context.Context, held *lock.Held) error {
		fmt.Println("held, with a token:", held.Token() > 0)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = lock.TryLock(ctx, s, "inventory") // it is free again
	fmt.Println(err)
	// Output:
	// held, with a token: true
	// <nil>
}
