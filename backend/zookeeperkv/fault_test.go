package zookeeperkv

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
)

const (
	opCreate = 1
	opDelete = 2
	opSet    = 5
	opMulti  = 14
)

// calls are all that a store can be asked, for tests in which the server does not answer.
func calls(s *Store) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Get": func(ctx context.Context) error { _, err := s.Get(ctx, "k", backend.GetOptions{}); return err },
		"stale Get": func(ctx context.Context) error {
			_, err := s.Get(ctx, "k", backend.GetOptions{Stale: true})
			return err
		},
		"GetMany": func(ctx context.Context) error {
			_, err := s.GetMany(ctx, []string{"k", "l"}, backend.GetOptions{})
			return err
		},
		"Put": func(ctx context.Context) error { _, err := s.Put(ctx, "k", nil, backend.PutOptions{}); return err },
		"Create": func(ctx context.Context) error {
			_, err := s.Put(ctx, "k", nil, backend.PutOptions{If: backend.Absent})
			return err
		},
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, "k", backend.DeleteOptions{}) },
		"DeletePrefix": func(ctx context.Context) error {
			_, err := s.DeletePrefix(ctx, "d")
			return err
		},
		"List": func(ctx context.Context) error {
			for _, err := range s.List(ctx, "", backend.ListOptions{}) {
				return err
			}
			return errors.New("nothing")
		},
		"Commit": func(ctx context.Context) error {
			_, err := s.Commit(ctx, backend.Txn{Writes: []backend.Write{{Key: "k"}}})
			return err
		},
		"Watch": func(ctx context.Context) error {
			w, err := s.Watch(ctx, "", backend.WatchOptions{})
			if err == nil {
				w.Close()
			}
			return err
		},
		"Register": func(ctx context.Context) error {
			_, err := s.Register(ctx, "k", nil, backend.RegisterOptions{})
			return err
		},
		"Contend": func(ctx context.Context) error {
			_, err := s.Contend(ctx, "l", backend.ContendOptions{})
			return err
		},
		"Holders": func(ctx context.Context) error {
			for _, err := range s.Holders(ctx, "l") {
				return err
			}
			return backend.ContextError(ctx) // the end of ctx is not an error of the sequence
		},
		"Ping": s.Ping,
	}
}

// R38: every call returns within 100 ms of the cancel, whatever the client does.
func TestCancelWhileTheServerIsSilent(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	put(t, s, "k", "v")
	if _, err := s.Put(t.Context(), "k", nil, backend.PutOptions{If: backend.Present}); err != nil {
		t.Fatal(err) // so that the bookkeeping is there
	}
	resume := p.pause()
	defer resume()
	for name, call := range calls(s) {
		t.Run(name, func(t *testing.T) {
			pace.Best(t, 150*time.Millisecond, "the end after the cancel", func() time.Duration {
				ctx, cancel := context.WithCancelCause(t.Context())
				cause := errors.New("enough")
				ended := make(chan time.Time, 1)
				time.AfterFunc(50*time.Millisecond, func() { ended <- time.Now(); cancel(cause) })
				err := call(ctx)
				took := time.Since(<-ended)
				if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
					t.Errorf("got %v", err)
				}
				if write := name == "Put" || name == "Create"; write && !errors.Is(err, backend.ErrUncertain) {
					t.Errorf("a write that was sent: %v", err)
				}
				return took
			})
		})
	}
}

// R38: without a deadline an unreachable server is ErrUnavailable after the dial timeout.
func TestNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	s := open(t, addr, "r", Options{DialTimeout: 200 * time.Millisecond})
	for name, call := range calls(s) {
		if name == "Holders" {
			continue // it waits for the server until its context ends
		}
		t.Run(name, func(t *testing.T) {
			pace.Best(t, 2*time.Second, name, func() time.Duration {
				begin := time.Now()
				err := call(t.Context())
				d := time.Since(begin)
				if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
					t.Errorf("got %v", err)
				}
				if d < 150*time.Millisecond {
					t.Errorf("returned after %v", d)
				}
				return d
			})
		})
	}
}

// R36: a write whose reply was lost is ErrUncertain, and is not repeated.
func TestLostReply(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	first := put(t, s, "k", "1")
	ctx := t.Context()
	p.loseAnswer(opSet)
	if _, err := s.Put(ctx, "k", []byte("2"), backend.PutOptions{}); !errors.Is(err, backend.ErrUncertain) {
		t.Errorf("Put: %v", err)
	}
	e, err := s.Get(ctx, "k", backend.GetOptions{})
	if err != nil || string(e.Value) != "2" || e.Revision <= first.Revision {
		t.Fatalf("Get: %+v, %v", e, err)
	}
	p.loseAnswer(opMulti)
	if err := s.Delete(ctx, "k", backend.DeleteOptions{}); !errors.Is(err, backend.ErrUncertain) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Get(ctx, "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	p.loseAnswer(opMulti)
	if _, err := s.Put(ctx, "k", nil, backend.PutOptions{If: backend.Absent}); !errors.Is(err, backend.ErrUncertain) {
		t.Errorf("Create: %v", err)
	}
}

// A place in a queue whose reply was lost is found again by its GUID, and leaves no second one behind.
func TestContendLosesReplies(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	ctx := t.Context()
	warm, err := s.Contend(ctx, "l", backend.ContendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := warm.Release(ctx); err != nil {
		t.Fatal(err)
	}
	p.loseAnswer(opMulti)
	c, err := s.Contend(ctx, "l", backend.ContendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if c.Token() <= warm.Token() {
		t.Errorf("token %d after %d", c.Token(), warm.Token())
	}
	queue := func() int {
		names, _, err := s.children(ctx, s.link, s.lockDir("l"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if n := queue(); n != 1 {
		t.Errorf("%d places in the queue", n)
	}
	p.loseAnswer(opDelete)
	if err := c.Release(ctx); err != nil {
		t.Errorf("Release: %v", err)
	}
	if n := queue(); n != 0 {
		t.Errorf("%d places in the queue after the release", n)
	}
}

// A session that expires takes places with it, and costs a watch no change.
func TestSessionExpires(t *testing.T) {
	addr := shared(t)
	p := newProxy(t, addr)
	root := testserver.UniqueName(t)
	s := open(t, p.addr(), root, Options{SessionTimeout: 4 * time.Second})
	other := open(t, addr, root, Options{})
	ctx := t.Context()
	put(t, s, "stays", "1")
	put(t, s, "goes", "1")
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	held, stalls := time.Now(), pace.Watch(t)
	resume := p.pause()
	select {
	case <-c.Lost():
	case <-time.After(time.Minute):
		t.Error("Lost is not closed")
	}
	if d := time.Since(held); d > 6*time.Second+stalls.Since(held) {
		t.Errorf("a lock without contact was held for %v", d)
	}
	next, err := other.Contend(ctx, "l", backend.ContendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := next.Wait(wait); err != nil {
		t.Fatalf("the lock of an expired session: %v", err)
	}
	put(t, other, "stays", "2")
	if err := other.Delete(ctx, "goes", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	put(t, other, "comes", "1")
	if h := w.Health(); h.DisconnectedSince.IsZero() {
		t.Errorf("Health: %+v", h)
	}
	resume()
	var got []string
	for len(got) == 0 || got[len(got)-1] != "synced " {
		e, err := w.Next(wait)
		if err != nil {
			t.Fatal(err, got)
		}
		got = append(got, e.Kind.String()+" "+e.Key)
	}
	if want := "resynced ,deleted goes,updated stays,created comes,synced "; strings.Join(got, ",") != want {
		t.Errorf("events: %q", got)
	}
	_, err = other.Commit(ctx, backend.Txn{Checks: []backend.Check{c.Check()}, Writes: []backend.Write{{Key: "fenced"}}})
	if !errors.Is(err, backend.ErrLockLost) {
		t.Errorf("a write under the check of a lost lock: %v", err)
	}
}

// What the client cannot take back stays bounded: a node never has more than two watches, however often it is watched.
func TestWatchesAreNotPiledUp(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{})
	for _, key := range []string{"a", "b/c", "b/d"} {
		put(t, s, key, "v")
	}
	for range 5 {
		w, err := s.Watch(t.Context(), "", backend.WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	s.link.hub.mu.Lock()
	nodes := len(s.link.hub.nodes)
	s.link.hub.mu.Unlock()
	if nodes > 5 { // the root, a, b, c, d
		t.Errorf("%d nodes are watched", nodes)
	}
	if n := p.watches(); n > 2*5+4 { // and the bookkeeping's two lists, while they are missing
		t.Errorf("%d watches were set", n)
	}
}

// R36: what was not answered is ErrUnavailable, which says that nothing was applied, if it only reads, and ErrUncertain
// alone if it writes.
func TestSilentServer(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{DialTimeout: 500 * time.Millisecond})
	put(t, s, "k", "v")
	resume := p.pause()
	defer resume()
	all := calls(s)
	for name, want := range map[string]struct{ is, not error }{
		"Put": {backend.ErrUncertain, backend.ErrUnavailable},
		"Get": {backend.ErrUnavailable, backend.ErrUncertain},
	} {
		if err := all[name](t.Context()); !errors.Is(err, want.is) || errors.Is(err, want.not) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// R38: more calls than may be under way wait for a silent server no longer than the others.
func TestManyCallsWhileTheServerIsSilent(t *testing.T) {
	p := newProxy(t, shared(t))
	s := open(t, p.addr(), testserver.UniqueName(t), Options{DialTimeout: 500 * time.Millisecond, SessionTimeout: 30 * time.Second})
	put(t, s, "k", "v")
	get := func() error {
		_, err := s.Get(t.Context(), "k", backend.GetOptions{Stale: true})
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	resume := p.pause()
	defer resume()
	pace.Best(t, 5*time.Second, "all of them", func() time.Duration {
		begin := time.Now()
		var wg sync.WaitGroup
		for range maxInFlight + 20 {
			wg.Go(func() {
				if err := get(); !errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	})
}

// R38: calls that have to know of expiries first, and cannot, do not wait for each other's dial timeouts.
func TestManyReadsWhileNobodyListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	s := open(t, addr, "r", Options{DialTimeout: 500 * time.Millisecond})
	pace.Best(t, 5*time.Second, "all of them", func() time.Duration {
		begin := time.Now()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), "k", backend.GetOptions{Stale: true}); !errors.Is(err, backend.ErrUnavailable) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	})
}
