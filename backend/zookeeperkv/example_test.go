package zookeeperkv_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/zookeeperkv"
)

// A store on a connection that the program has already. The session timeout has to be told: the client keeps it to
// itself, and it bounds the leases of locks.
func ExampleNew() {
	conn, _, err := zk.Connect([]string{"127.0.0.1:2181"}, 15*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	s := zookeeperkv.New(conn, zookeeperkv.Options{Root: "/demo", SessionTimeout: 15 * time.Second})
	defer s.Close() // before the connection

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e, err := s.Put(ctx, "greeting", []byte("hello"), backend.PutOptions{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = s.Put(ctx, "greeting", []byte("hello, world"), backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleDriver() {
	ctx := context.Background()
	u, err := backend.ParseURL("zookeeper://alice:secret@zk1,zk2,zk3/demo?session=15s")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(u)
	s, err := zookeeperkv.Driver{}.Open(ctx, u) // no I/O yet
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Capabilities().Name)
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// zookeeper://alice:xxxxx@zk1,zk2,zk3/demo
	// zookeeper
}
