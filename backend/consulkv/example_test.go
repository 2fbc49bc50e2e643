package consulkv_test

import (
	"context"
	"fmt"
	"log"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/consulkv"
)

func ExampleNew() {
	conf := api.DefaultConfig() // the agent on this machine, or CONSUL_HTTP_ADDR
	s := consulkv.New(conf, consulkv.Options{Root: "demo"})
	defer s.Close()

	ctx := context.Background()
	e, err := s.Put(ctx, "greeting", []byte("hello"), backend.PutOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("written at", e.Revision) // the ModifyIndex of demo/greeting
}

func ExampleDriver() {
	u, err := backend.ParseURL("consul://127.0.0.1:8500/demo?clock_skew=200ms")
	if err != nil {
		log.Fatal(err)
	}
	s, err := consulkv.Driver{Token: "…"}.Open(context.Background(), u)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	fmt.Println(s.Capabilities().MinLease)
	// Output: 20s
}
