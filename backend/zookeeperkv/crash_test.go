package zookeeperkv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// load is writers that put growing numbers to keys of their own.
type load struct {
	wg   sync.WaitGroup
	stop context.CancelFunc

	mu    sync.Mutex
	sent  map[string]uint64 // the last number that was put
	acked map[string]uint64 // the last that the store has acknowledged
	done  int
}

func startLoad(t *testing.T, s *Store, writers int) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop, sent: map[string]uint64{}, acked: map[string]uint64{}}
	for g := range writers {
		l.wg.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				key := fmt.Sprintf("d%d/k%d-%d", g%3, g, n%20)
				l.mu.Lock()
				l.sent[key] = n
				l.mu.Unlock()
				_, err := s.Put(t.Context(), key, counted(n, 100), backend.PutOptions{})
				switch {
				case err == nil:
					l.mu.Lock()
					l.acked[key] = n
					l.done++
					l.mu.Unlock()
				case !errors.Is(err, backend.ErrUncertain) && !errors.Is(err, backend.ErrUnavailable):
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// progress waits until n more writes are acknowledged.
func (l *load) progress(t *testing.T, n int) {
	t.Helper()
	done := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.done
	}
	begin := done()
	testserver.Eventually(t, time.Minute, "writes get through", func() bool { return done() >= begin+n })
}

// follow reads w until it shows what s holds.
func follow(t *testing.T, s *Store, seen map[string]uint64, next func(context.Context) (backend.Event, error)) (kinds map[backend.Kind]int) {
	t.Helper()
	want := map[string]uint64{}
	for e, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		want[e.Key] = binary.BigEndian.Uint64(e.Value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kinds = map[backend.Kind]int{}
	same := func() bool {
		if len(seen) != len(want) {
			return false
		}
		for key, n := range want {
			if seen[key] != n {
				return false
			}
		}
		return true
	}
	for !same() {
		e, err := next(ctx)
		if err != nil {
			t.Fatalf("the watch does not converge: %v", err)
		}
		kinds[e.Kind]++
		switch e.Kind {
		case backend.Existing, backend.Created, backend.Updated:
			seen[e.Key] = binary.BigEndian.Uint64(e.Value)
		case backend.Deleted:
			delete(seen, e.Key)
		}
	}
	return kinds
}

// begun reads a watch to the end of its snapshot.
func begun(t *testing.T, w *kv.Watch[[]byte]) (seen map[string]uint64) {
	t.Helper()
	seen = map[string]uint64{}
	for {
		e, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == kv.Synced {
			return seen
		}
		seen[e.Key] = binary.BigEndian.Uint64(e.Value)
	}
}

// A server that is killed under load and comes back has lost no write that was acknowledged, and no watch.
func TestKilledUnderLoad(t *testing.T) {
	server := testserver.Start(t, testserver.Spec{Store: testserver.ZooKeeper, Persist: true})
	addr := server.Addrs()[0]
	s, watching := open(t, addr, "crash", Options{}), open(t, addr, "crash", Options{})
	shared := kv.New(watching)
	defer shared.Close()
	ctx := t.Context()
	w, err := watching.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	above, err := shared.Watch(ctx, "", kv.FromSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	seen := begun(t, above)
	locks := kv.New(s)
	defer locks.Close()
	held, err := lock.Lock(ctx, locks, "l")
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, s, 8)
	for range 2 {
		l.progress(t, 200)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	l.progress(t, 200)
	l.end()
	for key, sent := range l.sent {
		n := uint64(0)
		e, err := s.Get(ctx, key, backend.GetOptions{})
		if err == nil {
			n = binary.BigEndian.Uint64(e.Value)
		} else if !errors.Is(err, backend.ErrNotFound) {
			t.Fatal(err)
		}
		if n < l.acked[key] || n > sent {
			t.Errorf("%q is %d, acknowledged was %d and sent %d", key, n, l.acked[key], sent)
		}
	}
	follow(t, s, map[string]uint64{}, w.Next)
	follow(t, s, seen, func(ctx context.Context) (backend.Event, error) { return plain(above.Next(ctx)) })
	// The server knows the session again, and the lock with it, unless it was away for longer than the lease.
	select {
	case <-held.Done():
		if !errors.Is(held.Err(), kv.ErrLockLost) {
			t.Errorf("the lock ended with %v", held.Err())
		}
	default:
		if err := held.Unlock(ctx); err != nil {
			t.Errorf("Unlock: %v", err)
		}
	}
}

// plain is an event of the upper layer as the lower has it.
func plain(e kv.Event[[]byte], err error) (backend.Event, error) {
	return backend.Event{Kind: e.Kind, Entry: backend.Entry{Key: e.Key, Value: e.Value}}, err
}

// A session that expires while others write costs a watch nothing but the steps in between, which it makes good by
// differences. Who had a lock or a registration is told, in time.
func TestSessionExpiresUnderLoad(t *testing.T) {
	addr, root := shared(t), testserver.UniqueName(t)
	p := newProxy(t, addr)
	s, other := open(t, p.addr(), root, Options{SessionTimeout: 4 * time.Second}), open(t, addr, root, Options{})
	owner, rest := kv.New(s), kv.New(other)
	defer owner.Close()
	defer rest.Close()
	ctx := t.Context()
	l := startLoad(t, other, 4)
	l.progress(t, 100)
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	above, err := owner.Watch(ctx, "", kv.FromSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	seenAbove := begun(t, above)
	reg, err := owner.Register(ctx, "registered", counted(1, 8), 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	held, err := lock.Lock(ctx, owner, "l", lock.Lease(4*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	begin, stalls := time.Now(), pace.Watch(t)
	resume := p.pause()
	for name, done := range map[string]<-chan struct{}{"lock": held.Done(), "registration": reg.Done()} {
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Errorf("the owner of the %s is not told", name)
		}
	}
	// Both were renewed, or taken, just before contact was lost.
	if d := time.Since(begin); d > 4*time.Second+time.Second+stalls.Since(begin) {
		t.Errorf("the owner was told after %v", d)
	}
	if err := held.Err(); !errors.Is(err, kv.ErrLockLost) {
		t.Errorf("the lock: %v", err)
	}
	if err := reg.Err(); !errors.Is(err, kv.ErrLeaseLost) {
		t.Errorf("the registration: %v", err)
	}
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	next, err := lock.Lock(wait, rest, "l") // which it is once the session has expired
	if err != nil {
		t.Fatal(err)
	}
	if next.Token() <= held.Token() {
		t.Errorf("token %d after %d", next.Token(), held.Token())
	}
	if err := rest.Delete(ctx, "d0/k0-1"); err != nil {
		t.Fatal(err)
	}
	resume()
	l.progress(t, 100)
	l.end()
	if _, err := owner.Put(ctx, "fenced", counted(1, 8), kv.If(held.Check())); !errors.Is(err, kv.ErrLockLost) {
		t.Errorf("a write under the check of a lost lock: %v", err)
	}
	if err := next.Unlock(ctx); err != nil {
		t.Error(err)
	}
	// Once the registration has expired for everybody, nothing changes any more.
	for {
		if _, err := rest.Get(wait, "registered"); errors.Is(err, kv.ErrNotFound) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	kinds := follow(t, other, seenAbove, func(ctx context.Context) (backend.Event, error) { return plain(above.Next(ctx)) })
	if kinds[backend.Resynced] == 0 {
		t.Errorf("the watch does not say that it has listed again: %v", kinds)
	}
	// A watch without a snapshot knows what it was told since: all that was written.
	seen := map[string]uint64{}
	for {
		e, err := w.Next(wait)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == backend.Deleted {
			delete(seen, e.Key)
		} else if e.Key != "" {
			seen[e.Key] = binary.BigEndian.Uint64(e.Value)
		}
		late := 0
		for key, n := range l.acked {
			if l.sent[key] == n && seen[key] < n {
				late++
			}
		}
		if late == 0 {
			break
		}
	}
}

// What a watch owes by a certain moment does not wait for the end of all changes: Sync is answered while others write
// without a pause, and a reconnection comes to its Synced.
func TestSyncUnderLoad(t *testing.T) {
	addr, root := shared(t), testserver.UniqueName(t)
	p := newProxy(t, addr)
	s, other := open(t, p.addr(), root, Options{}), open(t, addr, root, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // reached only if there is no end
	defer cancel()
	keys := fill(t, s, "d", 1, 200, 10)
	opened, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	w := opened.(*watch)
	// As if every node changed all the time, which a server does not manage but a slow client may see.
	var wg sync.WaitGroup
	busy, stop := context.WithCancel(ctx)
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		for busy.Err() == nil {
			for _, key := range keys {
				w.fire(s.root+"/"+key, dataBit)
			}
			time.Sleep(time.Millisecond) // often, and not all of the processor
		}
	})
	next := func() backend.Event {
		t.Helper()
		e, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for range 3 {
		e := put(t, other, "synced", "v")
		if err := w.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		for seen := false; ; {
			ev := next()
			seen = seen || ev.Key == e.Key && ev.Revision >= e.Revision
			if ev.Kind == backend.Progress {
				if !seen {
					t.Error("progress came before what was written before")
				}
				break
			}
		}
	}
	p.cut()
	for next().Kind != backend.Resynced {
	}
	for next().Kind != backend.Synced {
	}
}
