package rediskv_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: "10.0.0.1:6379"})
	defer client.Close()
	store := rediskv.New(client, rediskv.Options{Root: "shop"})
	defer store.Close()

	e, err := store.Put(ctx, "carts/7", []byte("apple"), backend.PutOptions{TTL: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Revision, e.Expires)
}

// A client of one's own whose requests end with their contexts, without a goroutine for each.
func ExampleDialer() {
	d := rediskv.NewDialer(nil)
	client := redis.NewClient(&redis.Options{Addr: "10.0.0.1:6379", Dialer: d.Dial, ContextTimeoutEnabled: true})
	defer client.Close()
	store := rediskv.New(client, rediskv.Options{Root: "shop", Dialer: d})
	defer store.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := store.Ping(ctx); err != nil {
		log.Fatal(err)
	}
}

func ExampleDriver() {
	ctx := context.Background()
	u, err := backend.ParseURL("redis+cluster://10.0.0.1,10.0.0.2/{shop}?dial_timeout=2s")
	if err != nil {
		log.Fatal(err)
	}
	store, err := rediskv.Driver{}.Open(ctx, u)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := store.Ping(ctx); err != nil {
		log.Fatal(err)
	}
}

// What other programs wrote while nobody watched, on a server that sends no keyspace notifications.
func ExampleStore_Adopt() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: "10.0.0.1:6379"})
	defer client.Close()
	store := rediskv.New(client, rediskv.Options{Root: "shop"})
	defer store.Close()

	if err := store.Ping(ctx); err != nil {
		log.Fatal(err)
	}
	if !store.Capabilities().ForeignEvents {
		n, err := store.Adopt(ctx, "")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n, "keys adopted")
	}
}
