package integration

import (
	"context"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// queuedClient is a contender with a connection of its own, whose traffic tells when it is woken.
type queuedClient struct {
	proxy  *testserver.Proxy
	got    chan *lock.Held
	before testserver.Traffic
}

// queueClient queues a new client up, and returns once its place is taken.
func queueClient(t *testing.T, srv lockServer, root string) *queuedClient {
	c := &queuedClient{proxy: testserver.NewProxy(t, srv.Addrs()[0]), got: make(chan *lock.Held, 1)}
	queued := make(chan struct{})
	requests := 0
	s := srv.open(t, c.proxy.Addr(), root, kv.Intercept(func(ctx context.Context, call kv.Call, next func(context.Context) error) error {
		if call.Op == kv.OpLock {
			if requests++; requests == 2 { // the first makes the place, the second waits for admission
				close(queued)
			}
		}
		return next(ctx)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	t.Cleanup(func() { cancel(); <-over })
	go func() {
		defer close(over)
		h, err := lock.Lock(ctx, s, "l", lock.Lease(time.Minute))
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("lock: %v", err)
			}
			return
		}
		c.got <- h
		select {
		case <-h.Done():
		case <-ctx.Done():
		}
	}()
	<-queued
	return c
}

// quiet waits until no client has heard anything for a moment: all that wait do nothing else.
func quiet(clients []*queuedClient, moment time.Duration) {
	for {
		for _, c := range clients {
			c.before = c.proxy.Traffic()
		}
		time.Sleep(moment) // that nobody hears anything takes time to see
		if woken(clients) == 0 {
			return
		}
	}
}

// woken counts who has heard something since quiet.
func woken(clients []*queuedClient) (n int) {
	for _, c := range clients {
		if c.proxy.Traffic().ReplyBytes > c.before.ReplyBytes {
			n++
		}
	}
	return n
}

// TestLockWakesOne counts who hears of a release among many that wait: the one that follows, in order of arrival.
func TestLockWakesOne(t *testing.T) {
	onSharedServers(t, func(t *testing.T, srv lockServer) {
		const clients = 12
		root := testserver.UniqueName(t)
		first := srv.open(t, srv.Addrs()[0], root)
		held, err := lock.Lock(t.Context(), first, "l", lock.Lease(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		var queue []*queuedClient
		for range clients {
			queue = append(queue, queueClient(t, srv, root))
		}
		// A pulse, a renewal or a watch that asks again may fall into the time of one release or another: on Consul they are
		// frequent at first, each of them half as often as the one before. A crowd, or one too many, would come at each.
		var counts []int
		for moment := 100 * time.Millisecond; ; moment = min(moment*3/2, time.Second) { // far longer than a request takes
			next, behind := queue[0], queue[1:]
			queue = behind
			if len(behind) == 1 {
				t.Fatalf("of %d that waited, releases woke %v besides the next", clients, counts)
			}
			quiet(behind, moment)
			if err := held.Unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
			select {
			case held = <-next.got:
			case <-time.After(lockPatience):
				t.Fatal("the release woke nobody, or another than the next")
			}
			time.Sleep(50 * time.Millisecond) // in which a crowd would have come to look
			n := woken(behind)
			if counts = append(counts, n); n == 0 {
				t.Logf("of %d that waited, releases woke %v besides the next", clients, counts)
				break
			}
		}
		if err := held.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
