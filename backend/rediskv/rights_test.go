package rediskv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// The rights that doc.go names.
const (
	writerRights = "~app/* ~app=kv/* &app=kv/* &__keyspace@0__:app/* &__keyspace@0__:app=kv/probe " +
		"+evalsha +eval +evalsha_ro +eval_ro +time +type +get +mget +set +mset +del +exists +pexpiretime +pexpireat +pexpire +pttl " +
		"+hget +hmget +hset +hdel +hexists +zadd +zrem +zrange +zcard +zrank +zscore +xadd +xtrim +xrange +xlen " +
		"+publish +subscribe +psubscribe +unsubscribe +ping +scan"
	readerRights = "%R~app/* %R~app=kv/* &app=kv/* +evalsha_ro +eval_ro +time +get +mget +exists +hget +hmget +hexists +zrange +xrange " +
		"+subscribe +unsubscribe +ping"
)

func as(t *testing.T, srv *testserver.Server, user string) *rediskv.Store {
	client := redis.NewClient(&redis.Options{Addr: srv.Addrs()[0], Username: user, Password: "p"})
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return newStore(t, client, rediskv.Options{Root: "app"})
}

func TestRights(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: []string{
		"notify-keyspace-events KA",
		"user writer on >p resetchannels " + writerRights,
		"user reader on >p resetchannels " + readerRights,
		"user deaf on >p ~app/* ~app=kv/* resetchannels +@all",
		"user stranger on >p ~other/* &* +@all",
	}})
	ctx := t.Context()
	writer := as(t, srv, "writer")
	if err := writer.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if !writer.Capabilities().ForeignEvents {
		t.Error("the writer does not see that notifications are on")
	}
	put(t, writer, "d/k", "v", backend.PutOptions{})
	put(t, writer, "d/ttl", "v", backend.PutOptions{TTL: time.Second})

	for _, user := range []string{"writer", "deaf"} {
		t.Run(user, func(t *testing.T) {
			s := as(t, srv, user)
			w, err := s.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for next(t, w).Kind != backend.Synced {
			}
			key := "d/of-" + user
			put(t, s, key, "v", backend.PutOptions{TTL: time.Second})
			if ev := next(t, w); ev.Kind == backend.Deleted { // d/ttl
				next(t, w)
			}
			for {
				if ev := next(t, w); ev.Kind == backend.Deleted && ev.Key == key {
					break
				}
			}
			c, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Release(ctx); err != nil {
				t.Fatal(err)
			}
			if err := d.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			if err := d.Release(ctx); err != nil {
				t.Fatal(err)
			}
			l, err := s.Register(ctx, "leased", nil, backend.RegisterOptions{TTL: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Renew(ctx); err != nil {
				t.Error(err)
			}
			if err := l.Release(ctx); err != nil {
				t.Error(err)
			}
			if _, err := s.Adopt(ctx, ""); err != nil {
				t.Error(err)
			}
			if _, err := s.DeletePrefix(ctx, "none"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("reader", func(t *testing.T) {
		s := as(t, srv, "reader")
		if e, err := s.Get(ctx, "d/k", backend.GetOptions{}); err != nil || string(e.Value) != "v" {
			t.Errorf("Get = %+v, %v", e, err)
		}
		if _, err := s.Get(ctx, "absent", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("Get of an absent key: %v", err)
		}
		n := 0
		for _, err := range s.List(ctx, "d", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n == 0 {
			t.Error("List yields nothing")
		}
		w, err := s.Watch(ctx, "", backend.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		put(t, writer, "d/k", "2", backend.PutOptions{})
		if ev := next(t, w); ev.Key != "d/k" || string(ev.Value) != "2" {
			t.Errorf("event %+v", ev)
		}
		if _, err := s.Put(ctx, "d/k", nil, backend.PutOptions{}); !errors.Is(err, backend.ErrPermission) {
			t.Errorf("Put: %v, want ErrPermission", err)
		}
		if _, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Second}); !errors.Is(err, backend.ErrPermission) {
			t.Errorf("Contend: %v, want ErrPermission", err)
		}
	})
	t.Run("stranger", func(t *testing.T) {
		s := as(t, srv, "stranger")
		if _, err := s.Get(ctx, "d/k", backend.GetOptions{}); !errors.Is(err, backend.ErrPermission) {
			t.Errorf("Get: %v, want ErrPermission", err)
		}
		if _, err := s.Watch(ctx, "", backend.WatchOptions{}); !errors.Is(err, backend.ErrPermission) {
			t.Errorf("Watch: %v, want ErrPermission", err)
		}
	})
}

// TestDeafLocks: who may not use channels waits for locks and observes them all the same.
func TestDeafLocks(t *testing.T) {
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis, Config: []string{
		"user deaf on >p ~app/* ~app=kv/* resetchannels +@all",
	}})
	s := as(t, srv, "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	heads := make(chan uint64)
	go func() {
		defer close(heads)
		for h, err := range s.Holders(ctx, "l") {
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case heads <- h.Token:
			case <-ctx.Done():
			}
		}
	}()
	sees := func(what string, token uint64) {
		t.Helper()
		for got := range heads {
			if got == token {
				return
			}
		}
		t.Fatalf("%s is not observed", what)
	}
	sees("nobody", 0)
	contend := func() backend.Contender {
		t.Helper()
		c, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, second := contend(), contend()
	sees("the holder", first.Token())
	waited, looked := make(chan error, 1), make(chan struct{}, 100)
	s.Client().(*redis.Client).AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		err := next(ctx, cmd)
		if does(cmd, "look") {
			looked <- struct{}{}
		}
		return err
	}))
	go func() { waited <- second.Wait(ctx) }()
	<-looked
	if err := first.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatalf("a lock that was released: %v", err)
	}
	sees("the next holder", second.Token())
	if err := second.Release(ctx); err != nil {
		t.Fatal(err)
	}
	sees("nobody again", 0)
}
