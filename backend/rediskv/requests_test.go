package rediskv_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestRequests counts round trips: what the documentation says.
func TestRequests(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	s := newStore(t, client, rediskv.Options{Root: testserver.UniqueName(t)})
	ctx := t.Context()
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	var lease backend.Lease
	var held backend.Contender
	list := func(o backend.ListOptions) func() error {
		return func() error {
			for _, err := range s.List(ctx, "l", o) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	fill := func() error {
		for i := 0; i < 2000; {
			var txn backend.Txn
			for range 40 {
				txn.Writes = append(txn.Writes, backend.Write{Key: fmt.Sprintf("l/%04d", i), Value: value256})
				i++
			}
			if _, err := s.Commit(ctx, txn); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range []struct {
		name string
		want int64
		f    func() error
	}{
		// The first use of each script costs one more: the server does not know it yet.
		{"warm up", -1, func() error {
			if _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); err != nil {
				return err
			}
			c, err := s.Contend(ctx, "warm", backend.ContendOptions{})
			if err != nil {
				return err
			}
			for range s.List(ctx, "", backend.ListOptions{}) {
			}
			return c.Release(ctx)
		}},
		{"Ping", 1, func() error { return s.Ping(ctx) }},
		{"Put", 1, func() error { _, err := s.Put(ctx, "k", []byte("v"), backend.PutOptions{}); return err }},
		{"Get", 1, func() error { _, err := s.Get(ctx, "k", backend.GetOptions{}); return err }},
		{"GetMany", 1, func() error { _, err := s.GetMany(ctx, []string{"k", "l"}, backend.GetOptions{}); return err }},
		{"Commit", 1, func() error {
			_, err := s.Commit(ctx, backend.Txn{
				Checks: []backend.Check{{If: backend.Present, Key: "k"}}, Writes: []backend.Write{{Key: "m", Value: []byte("v")}},
			})
			return err
		}},
		{"Delete", 1, func() error { return s.Delete(ctx, "m", backend.DeleteOptions{}) }},
		{"Register", 1, func() (err error) {
			lease, err = s.Register(ctx, "r", nil, backend.RegisterOptions{TTL: time.Hour})
			return err
		}},
		{"Lease.Renew", 1, func() error { return lease.Renew(ctx) }},
		{"Lease.Set", 1, func() error { _, err := lease.Set(ctx, []byte("v")); return err }},
		{"Lease.Release", 1, func() error { return lease.Release(ctx) }},
		{"Contend", 1, func() (err error) {
			held, err = s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Minute})
			return err
		}},
		{"Wait of a holder", 0, func() error { return held.Wait(ctx) }},
		{"Contender.Renew", 1, func() error { return held.Renew(ctx) }},
		{"Contender.Release", 1, func() error { return held.Release(ctx) }},
		{"fill", 50, fill},
		{"List of 2,000", 4, list(backend.ListOptions{})}, // the fourth finds that there are no more names
		{"List of 10", 2, list(backend.ListOptions{Limit: 10})},
		{"List of children", 2, list(backend.ListOptions{Children: true, Limit: 10, KeysOnly: true})},
		{"DeletePrefix of 2,000", 9, func() error { _, err := s.DeletePrefix(ctx, "l"); return err }},
	} {
		before := sent.n.Load()
		if err := c.f(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if n := sent.n.Load() - before; n != c.want && c.want >= 0 {
			t.Errorf("%s took %d requests, want %d", c.name, n, c.want)
		}
	}
}

// TestWhatIsNotAskedFor: a watch does not read the log for other keys, nor for renewals.
func TestWhatIsNotAskedFor(t *testing.T) {
	var sent counter
	srv := servers.Shared(t, testserver.Spec{Store: testserver.Redis})
	client := newClient(t, srv)
	client.AddHook(&sent)
	o := rediskv.Options{Root: testserver.UniqueName(t)}
	watcher, writer := newStore(t, client, o), newStore(t, newClient(t, srv), o)
	ctx := t.Context()
	w := watching(t, watcher, "mine", backend.WatchOptions{})
	events := make(chan backend.Event)
	go func() {
		defer close(events)
		for {
			ev, err := w.Next(ctx)
			if err != nil {
				return
			}
			events <- ev
		}
	}()
	put(t, writer, "mine/first", "v", backend.PutOptions{})
	<-events                                          // the tail is up, or has just looked
	eventually(t, "messages are heard", func() bool { // or it looks each second or so
		put(t, writer, "mine/first", "v", backend.PutOptions{})
		start := time.Now()
		<-events
		return time.Since(start) < 100*time.Millisecond
	})
	lease, err := writer.Register(ctx, "theirs/leased", nil, backend.RegisterOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for try := 1; ; try++ { // a connection for messages that waits for its PING for long is looked after
		before := sent.n.Load()
		for i := range 100 {
			put(t, writer, fmt.Sprintf("theirs/%d", i), "v", backend.PutOptions{})
			if err := lease.Renew(ctx); err != nil {
				t.Fatal(err)
			}
		}
		put(t, writer, "mine/last", "v", backend.PutOptions{})
		if ev := <-events; ev.Key != "mine/last" {
			t.Errorf("event of %q", ev.Key)
		}
		n := sent.n.Load() - before
		if n <= 20 {
			break
		}
		if t.Logf("200 changes of no concern cost %d requests", n); try == 4 {
			t.Error("in each try")
			break
		}
	}
}
