package rediskv_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestUntold: what makes no message is found all the same, on a connection for messages that is in order.
func TestUntold(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{
		`save ""`, "user mute on >p ~app/* ~app=kv/* resetchannels +@all",
	}})
	ctx := t.Context()
	admin := newClient(t, srv)
	s := newStore(t, admin, rediskv.Options{Root: "app"})
	s.LookEach(time.Second / 2)
	w := watchWhileSure(t, s, admin)

	// The writer is gone before its key expires, so the watching store alone can tell (R24).
	mute := as(t, srv, "mute")
	put(t, mute, "k", "v", backend.PutOptions{TTL: 2 * time.Second})
	if err := mute.Close(); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, w); ev.Kind != backend.Created || ev.Key != "k" {
		t.Errorf("%+v, want that k is created", ev)
	}
	if ev := next(t, w); ev.Kind != backend.Deleted || ev.Key != "k" {
		t.Errorf("%+v, want that k is deleted", ev)
	}

	if err := admin.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if ev, err := w.Next(within); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("after FLUSHALL: %+v, %v, want ErrHistoryLost", ev, err)
	}
}

// TestSilentReconnect: go-redis may replace the connection for messages without a word, where sending on it fails. What was
// published meanwhile is not missed.
func TestSilentReconnect(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	ctx := t.Context()
	admin := newClient(t, srv)
	other := newStore(t, admin, rediskv.Options{Root: "app"})
	var wires flaky
	s := newStore(t, dialing(t, srv, &redis.Options{Dialer: wires.dial}), rediskv.Options{Root: "app"})
	s.LookEach(time.Hour)
	w := watchWhileSure(t, s, admin)

	// A call of Next looks at the log before it waits to be told.
	looked := commandCalls(t, admin)["eval_ro"]
	events := make(chan backend.Event)
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		defer close(events)
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if ev, err := w.Next(within); err != nil {
			t.Error(err)
		} else {
			events <- ev
		}
	})
	eventually(t, "Next looks, by a script that is new to the server", func() bool {
		return commandCalls(t, admin)["eval_ro"] > looked
	})

	conn, hear := s.Deafen()
	read := wires.read.Load()
	if n := admin.Publish(ctx, "app=kv/events", "says nothing").Val(); n != 1 {
		t.Fatalf("%d hear messages", n)
	}
	eventually(t, "the message is read", func() bool { return wires.read.Load() > read })
	unheard := func() { put(t, other, "k", "v", backend.PutOptions{}) }
	wires.onDial.Store(&unheard)
	wires.fail.Store(true)
	if err := conn.Ping(ctx); err == nil {
		t.Error("the connection does not fail")
	}
	hear()
	if ev := <-events; ev.Key != "k" {
		t.Errorf("%+v, want k", ev)
	}
}

// watchWhileSure returns a watch of s, alone on its server, when the looks at the log that come with a new connection are over.
func watchWhileSure(t *testing.T, s *rediskv.Store, admin *redis.Client) backend.Watch {
	t.Helper()
	if err := s.Ping(t.Context()); err != nil { // so that the rest of first contact is over
		t.Fatal(err)
	}
	before := commandCalls(t, admin)["zrange"]
	w := watching(t, s, "", backend.WatchOptions{})
	eventually(t, "a look without messages and one as they begin", func() bool {
		return commandCalls(t, admin)["zrange"] >= before+4 // two each
	})
	return w
}

// flaky makes connections of which one can be made to fail as it sends.
type flaky struct {
	fail   atomic.Bool            // the next write
	onDial atomic.Pointer[func()] // once, before the connection is made after that
	read   atomic.Int64
}

type flakyConn struct {
	net.Conn
	of *flaky
}

func (f *flaky) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if do := f.onDial.Swap(nil); do != nil {
		(*do)()
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	return flakyConn{conn, f}, err
}

func (c flakyConn) Write(b []byte) (int, error) {
	if c.of.fail.CompareAndSwap(true, false) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c flakyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.of.read.Add(int64(n))
	return n, err
}
