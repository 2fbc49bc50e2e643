package integration

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/lock"
)

// TestLockPausedHolder stops a process that holds a lock past its lease. Another has the lock meanwhile; the first, when it
// goes on, is told, and the store refuses its write.
func TestLockPausedHolder(t *testing.T) {
	onSharedServers(t, func(t *testing.T, srv lockServer) {
		root := testserver.UniqueName(t)
		child := startLockChild(t, lockRole{URL: srv.url(srv.Addrs()[0], root), Lease: srv.lease})
		first := child.token(t, "held", lockPatience)
		if got := child.asks(t, "write"); got != "ok" {
			t.Fatalf("a write while held: %s", got)
		}
		signal(t, child, syscall.SIGSTOP)
		stopped, stalls := time.Now(), pace.Watch(t)
		s := srv.open(t, srv.Addrs()[0], root)
		ctx, cancel := context.WithTimeout(t.Context(), lockPatience)
		defer cancel()
		second, err := lock.Lock(ctx, s, "l", lock.Lease(srv.lease))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(stopped); took > srv.lease+s.Capabilities().TTLSlack+lockLag+stalls.Since(stopped) {
			t.Errorf("the lock of a paused holder was had after %v, its lease is %v", took, srv.lease)
		}
		if second.Token() <= first {
			t.Errorf("token %d after %d", second.Token(), first)
		}
		if _, err := s.Put(ctx, "fenced", []byte("by the second"), kv.If(second.Check())); err != nil {
			t.Errorf("a write of the second holder: %v", err)
		}
		signal(t, child, syscall.SIGCONT)
		if got := child.hears(t, "lost", lockPatience); got != "true" {
			t.Errorf("the context's cause or Err do not match %v", kv.ErrLockLost)
		}
		if got := child.asks(t, "write"); got != "refused" {
			t.Errorf("the late write: %s", got)
		}
		if got := child.asks(t, "unlock"); got != "refused" {
			t.Errorf("Unlock of the lost lock: %s", got)
		}
		if e, err := s.Get(ctx, "fenced"); err != nil || string(e.Value) != "by the second" {
			t.Errorf("there is %q, %v", e.Value, err)
		}
		if second.Err() != nil {
			t.Errorf("the second holder: %v", second.Err())
		}
		if err := second.Unlock(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestLockPausedProcess is the same where nobody else can reach the lock: the process that was paused is told of its loss,
// and has the lock anew, with a greater token.
func TestLockPausedProcess(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"memory": "", "bolt": "bolt://" + t.TempDir() + "/kv.db"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const lease = 2 * time.Second
			child := startLockChild(t, lockRole{URL: url, Lease: lease})
			first := child.token(t, "held", lockPatience)
			signal(t, child, syscall.SIGSTOP)
			time.Sleep(lease + lease/4) // the time that is to pass
			signal(t, child, syscall.SIGCONT)
			if got := child.hears(t, "lost", lockPatience); got != "true" {
				t.Errorf("the context's cause or Err do not match %v", kv.ErrLockLost)
			}
			if got := child.asks(t, "write"); got != "refused" {
				t.Errorf("the late write: %s", got)
			}
			if second, err := strconv.ParseUint(child.asks(t, "second"), 10, 64); err != nil || second <= first {
				t.Errorf("token %d after %d, %v", second, first, err)
			}
		})
	}
}

func signal(t *testing.T, c *lockChild, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// TestLockElectionKill has three processes stand, and kills the leader, twice.
func TestLockElectionKill(t *testing.T) {
	onSharedServers(t, func(t *testing.T, srv lockServer) {
		root := testserver.UniqueName(t)
		addr := srv.Addrs()[0]
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		defer watching.Wait()
		defer cancel()

		var seen [2]chan lock.Leader
		for i := range seen {
			seen[i] = make(chan lock.Leader, 100)
			s := srv.open(t, addr, root)
			watching.Go(func() {
				for l, err := range lock.NewElection(s, "e").Observe(ctx) {
					if err != nil {
						if ctx.Err() == nil {
							t.Errorf("observer %d: %v", i, err)
						}
						return
					}
					seen[i] <- l
				}
			})
		}
		fenced := watchTokens(t, ctx, &watching, srv.open(t, addr, root))

		role := lockRole{URL: srv.url(addr, root), Lease: srv.lease}
		var candidates []*lockChild
		for i := range 3 {
			role.Value = fmt.Sprint("candidate ", i)
			c := startLockChild(t, role)
			c.hears(t, "stands", lockPatience)
			candidates = append(candidates, c)
		}
		var leaders []lock.Leader
		next := func(within time.Duration) {
			t.Helper()
			i, token := whoLeads(t, candidates, within)
			leaders = append(leaders, lock.Leader{Value: fmt.Sprint("candidate ", i), Token: token})
			fenced(token)
			if len(leaders) == 3 {
				return
			}
			candidates[i].kill()
			candidates[i] = nil
		}
		next(lockPatience)
		next(srv.lease + 2*time.Second)
		next(srv.lease + 2*time.Second)
		for i := range leaders[1:] {
			if leaders[i+1].Token <= leaders[i].Token {
				t.Errorf("tokens %+v", leaders)
			}
		}
		for i := range seen {
			for _, want := range leaders {
				select {
				case got := <-seen[i]:
					if got != want {
						t.Errorf("observer %d saw %+v, want %+v", i, got, want)
					}
				case <-time.After(lockPatience):
					t.Fatalf("observer %d did not see %+v", i, want)
				}
			}
		}
		cancel()
		watching.Wait()
		for i := range seen {
			if len(seen[i]) > 0 {
				t.Errorf("observer %d saw %+v after all", i, <-seen[i])
			}
		}
	})
}

// whoLeads waits for one of the candidates to say that it leads.
func whoLeads(t *testing.T, candidates []*lockChild, within time.Duration) (i int, token uint64) {
	t.Helper()
	begin, stalls := time.Now(), pace.Watch(t)
	for {
		for i, c := range candidates {
			if c == nil {
				continue
			}
			select {
			case line, ok := <-c.lines:
				if !ok {
					t.Fatalf("candidate %d ended", i)
				}
				if _, err := fmt.Sscanf(line, "leads %d", &token); err != nil {
					t.Fatalf("candidate %d says %q", i, line)
				}
				return i, token
			default:
			}
		}
		if time.Since(begin) > within+stalls.Since(begin) {
			t.Fatalf("nobody leads within %v", within)
		}
		time.Sleep(5 * time.Millisecond) // and look again
	}
}

// watchTokens watches the key that leaders write their tokens to: the store never takes an older leader's after a newer one's. It
// returns a function that waits for a token.
func watchTokens(t *testing.T, ctx context.Context, wg *sync.WaitGroup, s *kv.Store) (wait func(token uint64)) {
	w, err := s.WatchKey(ctx, "leader", kv.FromSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var last uint64
	wg.Go(func() {
		defer w.Close()
		for ev, err := range w.Events() {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("watch: %v", err)
				}
				return
			}
			token, err := strconv.ParseUint(string(ev.Value), 10, 64)
			if err != nil {
				continue // synced
			}
			mu.Lock()
			if token < last {
				t.Errorf("the leader with token %d wrote after %d did", token, last)
			}
			last = token
			mu.Unlock()
		}
	})
	return func(token uint64) {
		t.Helper()
		testserver.Eventually(t, lockPatience, fmt.Sprintf("a fenced write of the leader with token %d", token), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return last == token
		})
	}
}

// TestLockTokensSurvive takes a lock from one process after the other, which are killed, and across a kill of the server:
// tokens grow.
func TestLockTokensSurvive(t *testing.T) {
	once := func(t *testing.T, last *uint64, role lockRole, crash bool) {
		t.Helper()
		c := startLockChild(t, role)
		token := c.token(t, "held", lockPatience)
		if token <= *last {
			t.Errorf("token %d after %d", token, *last)
		}
		*last = token
		if !crash {
			if got := c.asks(t, "unlock"); got != "ok" {
				t.Errorf("unlock: %s", got)
			}
		}
		c.kill()
	}
	t.Run("bolt", func(t *testing.T) {
		var last uint64
		role := lockRole{URL: "bolt://" + t.TempDir() + "/kv.db", Lease: 2 * time.Second}
		for i := range 4 {
			once(t, &last, role, i%2 == 0)
		}
	})
	onLockServers(t, func(t *testing.T, srv lockServer) {
		var last uint64
		role := lockRole{URL: srv.url(srv.Addrs()[0], testserver.UniqueName(t)), Lease: srv.lease}
		once(t, &last, role, false)
		once(t, &last, role, true) // the next one waits for the end of the lease
		restart := func() {
			t.Helper()
			if err := errors.Join(srv.Kill(), srv.Restart(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		restart()
		once(t, &last, role, false)
		once(t, &last, role, false)
		restart()
		once(t, &last, role, false)
	})
}
