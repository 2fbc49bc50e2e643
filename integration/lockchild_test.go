package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/lock"
)

// lockChildEnv tells a process of this test binary that it is a child, and what it does.
const lockChildEnv = "KV_TEST_LOCK_CHILD"

// lockRole is what a child does with its store.
type lockRole struct {
	URL   string // "" is a store in its own memory
	Value string // as a candidate it shows this; "" is no candidate, but takes the lock
	Lease time.Duration
}

// lockChild is a process that holds a lock, or stands for election. It says what happens in lines, and is asked in lines.
type lockChild struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	once  sync.Once
}

func startLockChild(t *testing.T, role lockRole) *lockChild {
	t.Helper()
	text, err := json.Marshal(role)
	if err != nil {
		t.Fatal(err)
	}
	c := &lockChild{cmd: exec.Command(os.Args[0], "-test.run=^TestLockChild$"), lines: make(chan string, 100)}
	c.cmd.Env = append(os.Environ(), lockChildEnv+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			if said, ok := strings.CutPrefix(s.Text(), "> "); ok {
				c.lines <- said
			}
		}
	}()
	t.Cleanup(c.kill)
	return c
}

// kill is kill -9.
func (c *lockChild) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill() // it may have ended
		for range c.lines {
			// until the end of its output
		}
		_ = c.cmd.Wait() // says that it was killed
		c.in.Close()
	})
}

// hears returns what follows word in the next line that begins with it, within d.
func (c *lockChild) hears(t *testing.T, word string, d time.Duration) string {
	t.Helper()
	timeout := time.After(d)
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				t.Fatalf("the child ended before it said %q", word)
			}
			if first, rest, _ := strings.Cut(line, " "); first == word {
				return rest
			}
			t.Fatalf("the child says %q, want %q", line, word)
		case <-timeout:
			t.Fatalf("the child did not say %q within %v", word, d)
		}
	}
}

func (c *lockChild) token(t *testing.T, word string, d time.Duration) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(c.hears(t, word, d), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (c *lockChild) asks(t *testing.T, question string) string {
	t.Helper()
	if _, err := io.WriteString(c.in, question+"\n"); err != nil {
		t.Fatal(err)
	}
	return c.hears(t, question, lockPatience)
}

// TestLockChild is no test of its own: the others start it as a process.
func TestLockChild(t *testing.T) {
	text := os.Getenv(lockChildEnv)
	if text == "" {
		t.Skip("only as a child of another test")
	}
	var role lockRole
	if err := json.Unmarshal([]byte(text), &role); err != nil {
		t.Fatal(err)
	}
	say := func(format string, args ...any) { fmt.Printf("> "+format+"\n", args...) }
	ctx := t.Context()
	var s *kv.Store
	if role.URL == "" {
		s = kv.New(memkv.New(memkv.Options{}))
		defer s.Close()
	} else {
		var err error
		if s, err = openURL(t, drivers, role.URL); err != nil {
			t.Fatal(err)
		}
	}
	if role.Value != "" {
		standForElection(ctx, t, s, role, say)
		return
	}
	h, err := lock.Lock(ctx, s, "l", lock.Lease(role.Lease))
	if err != nil {
		t.Fatal(err)
	}
	say("held %d", h.Token())
	work := h.Context(ctx)
	gone := context.AfterFunc(work, func() {
		say("lost %v", errors.Is(context.Cause(work), kv.ErrLockLost) && errors.Is(h.Err(), kv.ErrLockLost))
	})
	defer gone()
	for questions := bufio.NewScanner(os.Stdin); questions.Scan(); {
		switch q := questions.Text(); q {
		case "write":
			_, err := s.Put(ctx, "fenced", []byte("by the child"), kv.If(h.Check()))
			say("write %s", verdict(err))
		case "second":
			next, err := lock.Lock(ctx, s, "l", lock.Lease(role.Lease))
			if err != nil {
				t.Fatal(err)
			}
			say("second %d", next.Token())
		case "unlock":
			gone()
			say("unlock %s", verdict(h.Unlock(ctx)))
		}
	}
}

// verdict is what a child says of an error.
func verdict(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, kv.ErrLockLost):
		return "refused"
	}
	return err.Error()
}

// standForElection writes its token, fenced, for as long as it leads.
func standForElection(ctx context.Context, t *testing.T, s *kv.Store, role lockRole, say func(string, ...any)) {
	say("stands")
	err := lock.NewElection(s, "e", lock.Lease(role.Lease)).Lead(ctx, role.Value, func(ctx context.Context, l *lock.Leadership) error {
		say("leads %d", l.Token())
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := s.Put(ctx, "leader", fmt.Append(nil, l.Token()), kv.If(l.Check())); err != nil && l.Err() == nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
	t.Fatal(err)
}
