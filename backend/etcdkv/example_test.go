package etcdkv_test

import (
	"context"
	"fmt"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/etcdkv"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{
		Endpoints:         []string{"10.0.0.1:2379", "10.0.0.2:2379"},
		DialKeepAliveTime: 10 * time.Second, // or a watch does not notice a host that vanished
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	store := etcdkv.New(client, etcdkv.Options{Root: "/shop"})
	defer store.Close()

	e, err := store.Put(ctx, "carts/7", []byte("apple"), backend.PutOptions{TTL: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Revision, e.Expires)
}

func ExampleDriver() {
	ctx := context.Background()
	u, err := backend.ParseURL("etcd://127.0.0.1:2379/shop?dial_timeout=2s")
	if err != nil {
		log.Fatal(err)
	}
	store, err := etcdkv.Driver{}.Open(ctx, u)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if err := store.Ping(ctx); err != nil {
		log.Fatal(err)
	}
}
