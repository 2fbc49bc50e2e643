package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// lockFault is what happens at one request of an acquisition.
type lockFault string

const (
	cancelled   lockFault = "cancelled at"      // the caller's context ends as the request leaves
	lostRequest lockFault = "without"           // the server never gets it, and the connection breaks
	lostReply   lockFault = "without the reply" // the server does what it is asked, and the connection breaks
	silenced    lockFault = "stalled at"        // nothing passes any more, and the caller's context ends
	closed      lockFault = "closed at"         // the store is closed as the request leaves
)

// faultAt is one fault at the n-th request that passes a proxy, from now on.
type faultAt struct {
	fault  lockFault
	n      int
	proxy  *testserver.Proxy
	cancel context.CancelFunc
	close  func() error

	mu    sync.Mutex
	seen  int
	fired chan struct{}
	lost  <-chan struct{}
	done  sync.WaitGroup
}

// arm sets the fault. What a client sends to keep a connection or to make one is no request.
func (f *faultAt) arm(store testserver.Store) {
	f.fired = make(chan struct{})
	match := func(request []byte) bool {
		if store == testserver.ZooKeeper && (len(request) < 8 || bytes.HasPrefix(request[4:], []byte{0xff, 0xff, 0xff, 0xfe})) {
			return false // a ping
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen++
		if f.seen != f.n+1 {
			return false
		}
		close(f.fired)
		switch f.fault {
		case cancelled:
			f.cancel()
			return false
		case silenced:
			f.done.Go(func() { f.proxy.Stall(); f.cancel() }) // the proxy waits for match
			return false
		case closed:
			f.done.Go(func() { _ = f.close() }) // the test looks at the error, later
			return false
		}
		return true
	}
	if f.fault == lostReply {
		f.lost = f.proxy.LoseReply(match)
	} else {
		f.lost = f.proxy.LoseRequest(match)
	}
}

func (f *faultAt) disarm() (fired bool) {
	f.proxy.LoseRequest(nil)
	f.done.Wait()
	f.proxy.Resume()
	select {
	case <-f.fired:
		return true
	default:
		return false
	}
}

// TestLockFaults acquires a lock again and again, with a fault at one request later each time, until an acquisition and its
// release are through before the fault. Whatever happens, the next contender has the lock within two seconds, and in
// the end nothing is left on the server.
func TestLockFaults(t *testing.T) {
	onLockServers(t, func(t *testing.T, srv lockServer) {
		for _, held := range []bool{false, true} {
			for _, fault := range []lockFault{cancelled, lostRequest, lostReply, silenced, closed} {
				state := "free"
				if held {
					state = "held"
				}
				for n := 0; ; n++ {
					fired := false
					t.Run(fmt.Sprintf("%s, %s request %d", state, fault, n), func(t *testing.T) {
						fired = lockWithFault(t, srv, fault, n, held)
					})
					if !fired || t.Failed() {
						break
					}
					if n == 50 {
						t.Fatal("an acquisition takes no end of requests")
					}
				}
			}
		}
	})
}

// lockWithFault reports whether the fault took place.
func lockWithFault(t *testing.T, srv lockServer, fault lockFault, n int, held bool) bool {
	root := testserver.UniqueName(t)
	proxy := testserver.NewProxy(t, srv.Addrs()[0])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next := srv.open(t, srv.Addrs()[0], root)
	s := srv.open(t, proxy.Addr(), root)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	var holder *lock.Held
	if held {
		lockIn(t, s, "l") // its first use of locks is not what is looked at
		var err error
		if holder, err = lock.Lock(t.Context(), next, "l"); err != nil {
			t.Fatal(err)
		}
	}
	f := &faultAt{fault: fault, n: n, proxy: proxy, cancel: cancel, close: s.Close}
	f.arm(srv.Store())
	over := make(chan error, 1)
	go func() {
		h, err := lock.Lock(ctx, s, "l")
		if err == nil {
			err = h.Unlock(ctx)
		}
		over <- err
	}()
	var err error
	if held {
		// The contender comes to wait, unless the fault is before that: no store takes longer to ask all it asks.
		select {
		case <-f.fired:
		case err = <-over:
			select {
			case <-f.fired: // which ended it at once
				over <- err
			default:
				t.Fatalf("an acquisition of a held lock: %v", err)
			}
		case <-time.After(300 * time.Millisecond):
		}
		if err := holder.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err = <-over:
	case <-time.After(lockPatience):
		t.Fatal("the acquisition does not end")
	}
	fired := f.disarm()
	checkFault(t, fault, fired, err)
	begin, stalls := time.Now(), pace.Watch(t)
	if took := lockIn(t, next, "l"); took > 2*time.Second+lockLag+stalls.Since(begin) {
		t.Errorf("the next contender waited %v (the acquisition: %v)", took, err)
	}
	for _, c := range []*kv.Store{s, next} {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	srv.nothingRemains(t)
	return fired
}

// checkFault checks the error of an acquisition and its release.
func checkFault(t *testing.T, fault lockFault, fired bool, err error) {
	t.Helper()
	switch {
	case err == nil:
	case !fired:
		t.Errorf("an acquisition without a fault: %v", err)
	case fault == cancelled || fault == silenced:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
	case fault == closed:
		if !errors.Is(err, kv.ErrClosed) && !errors.Is(err, kv.ErrUncertain) {
			t.Errorf("%v, want %v", err, kv.ErrClosed)
		}
	case !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUncertain) && !errors.Is(err, kv.ErrLockLost):
		t.Errorf("%v, want %v or %v", err, kv.ErrUnavailable, kv.ErrUncertain)
	}
}
