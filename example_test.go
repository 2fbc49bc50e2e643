package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/lock"
)

type User struct {
	Name  string
	Email string
}

func Example() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{})) // or any other driver's store
	defer s.Close()
	users := kv.NewTyped(s, codec.JSON[User](), "users")

	ann, err := users.Create(ctx, "ann", User{Name: "Ann"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := users.Create(ctx, "ann", User{Name: "Another Ann"}); errors.Is(err, kv.ErrExists) {
		fmt.Println("ann is taken")
	}
	ann.Value.Email = "ann@example.com"
	if _, err := users.Update(ctx, ann.Key, ann.Value, ann.Revision); err != nil {
		log.Fatal(err)
	}
	for e, err := range users.List(ctx, "") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Key, e.Value.Email)
	}
	// Output:
	// ann is taken
	// ann ann@example.com
}

// Modify is a read, a change and a conditional write, repeated until nobody
// came between.
func ExampleTyped_Modify() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	counters := kv.NewTyped(s, codec.JSON[int](), "counters")

	for range 3 {
		_, err := counters.Modify(ctx, "visits", func(e *kv.Entry[int]) error {
			e.Value++ // from zero, if there is no such key: Upsert
			return nil
		}, kv.Upsert())
		if err != nil {
			log.Fatal(err)
		}
	}
	e, err := counters.Get(ctx, "visits")
	fmt.Println(e.Value, err)
	// Output: 3 <nil>
}

// A write at a revision is refused when somebody else has written since.
func ExampleTyped_Update() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	flags := kv.NewTyped(s, codec.String(), "flags")

	seen, err := flags.Put(ctx, "dark-mode", "off")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := flags.Put(ctx, "dark-mode", "beta"); err != nil { // somebody else
		log.Fatal(err)
	}
	_, err = flags.Update(ctx, "dark-mode", "on", seen.Revision)
	fmt.Println(errors.Is(err, kv.ErrConflict))
	// Output: true
}

// A transaction writes under the keys and codecs of several views, all or
// nothing.
func ExampleStore_Txn() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	open := kv.NewTyped(s, codec.JSON[User](), "open")
	done := kv.NewTyped(s, codec.JSON[User](), "done")

	e, err := open.Put(ctx, "7", User{Name: "Ann"})
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		t := s.Txn()
		open.In(t).Delete("7", kv.IfRevision(e.Revision))
		done.In(t).Create("7", e.Value)
		t.Put("log/7", []byte("moved"), kv.TTL(24*time.Hour)) // the store's own keys
		_, err = t.Commit(ctx)
		var check *kv.CheckError
		if errors.As(err, &check) {
			fmt.Println("nothing was written:", check)
			continue
		}
		fmt.Println("moved", err)
	}
	// Output:
	// moved <nil>
	// nothing was written: check of key "open/7" failed: revision conflict
}

// A watch begins with what is there and goes on with what changes.
func ExampleTyped_Watch() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	config := kv.NewTyped(s, codec.String(), "config")
	if _, err := config.Put(ctx, "color", "red"); err != nil {
		log.Fatal(err)
	}

	w, err := config.Watch(ctx, "", kv.FromSnapshot())
	if err != nil {
		log.Fatal(err)
	}
	if _, err := config.Put(ctx, "color", "blue"); err != nil {
		log.Fatal(err)
	}
	if err := config.Delete(ctx, "color"); err != nil {
		log.Fatal(err)
	}
	for ev, err := range w.Events() { // leaving the loop closes the watch
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(ev.Kind, " ", ev.Key, " ", ev.Value)))
		if ev.Kind == kv.Deleted {
			break
		}
	}
	// Output:
	// existing color red
	// synced
	// updated color blue
	// deleted color
}

// Children lists one level, as ls does.
func ExampleChildren() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	for _, key := range []string{"etc/hosts", "etc/ssl/key", "etc/ssl/cert"} {
		if _, err := s.Put(ctx, key, nil); err != nil {
			log.Fatal(err)
		}
	}
	for e, err := range s.List(ctx, "etc", kv.Children(), kv.KeysOnly()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Key, e.IsDir())
	}
	// Output:
	// etc/hosts false
	// etc/ssl/ true
}

// A write with a lock's check is refused by the store once the lock is lost.
func ExampleIf() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()

	held, err := lock.Lock(ctx, s, "nightly")
	if err != nil {
		log.Fatal(err)
	}
	_, err = s.Put(ctx, "report", []byte("first"), kv.If(held.Check()))
	fmt.Println(err)
	if err := held.Unlock(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = s.Put(ctx, "report", []byte("too late"), kv.If(held.Check()))
	fmt.Println(errors.Is(err, kv.ErrLockLost))
	// Output:
	// <nil>
	// true
}

// A write may depend on other keys than its own.
func ExampleStore_Present() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	users, posts := s.Sub("users"), s.Sub("posts")

	if _, err := users.Put(ctx, "ann", nil); err != nil {
		log.Fatal(err)
	}
	for _, author := range []string{"ann", "bob"} {
		_, err := posts.Create(ctx, author+"/1", []byte("hello"), kv.If(users.Present(author)))
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// kv: memory create "users/bob": check of key "users/bob" failed: key not found
}

// A registered key goes when its owner does.
func ExampleStore_Register() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()

	reg, err := s.Register(ctx, "instances/a", []byte("10.0.0.1:80"), 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	work := reg.Context(ctx) // ends if the registration is lost
	fmt.Println(work.Err())
	if err := reg.Release(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Exists(ctx, "instances/a"))
	// Output:
	// <nil>
	// false <nil>
}

// Every error names operation, store and key, and matches what a program asks
// for.
func ExampleError() {
	ctx := context.Background()
	s := kv.New(memkv.New(memkv.Options{}), kv.Prefix("shop"))
	defer s.Close()

	_, err := s.Get(ctx, "orders/7")
	fmt.Println(err)
	var e *kv.Error
	fmt.Println(errors.Is(err, kv.ErrNotFound), errors.As(err, &e), e.Key)
	// Output:
	// kv: memory get "shop/orders/7": key not found
	// true true shop/orders/7
}

// An interceptor sees every operation, for metrics and traces.
func ExampleIntercept() {
	ctx := context.Background()
	count := map[kv.Op]int{}
	s := kv.New(memkv.New(memkv.Options{}), kv.Intercept(
		func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
			count[c.Op]++ // one goroutine here; else it needs a mutex
			return next(ctx)
		}))
	defer s.Close()
	for _, key := range []string{"a", "b"} {
		if _, err := s.Put(ctx, key, nil); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(count[kv.OpPut])
	// Output: 2
}
