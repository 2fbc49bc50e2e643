package boltkv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
)

// crashFile names, in the environment of a process that TestKill starts, the
// file that it is to write to until it is killed.
const crashFile = "BOLTKV_TEST_CRASH_FILE"

func openURL(ctx context.Context, raw string, d boltkv.Driver) (backend.Store, error) {
	u, err := backend.ParseURL(raw)
	if err != nil {
		return nil, err
	}
	return d.Open(ctx, u)
}

// crashChild writes from several goroutines and says on its output what was
// acknowledged: "put key value revision", "fence token", "seen revision token".
func crashChild(path string) error {
	ctx := context.Background()
	s, err := openURL(ctx, "bolt://"+path+"?history=true", boltkv.Driver{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...) // one write each: the output is not buffered
	}
	w, err := s.Watch(ctx, "", backend.WatchOptions{})
	if err != nil {
		return err
	}
	c, err := s.Contend(ctx, "lock", backend.ContendOptions{Lease: time.Hour})
	if err != nil {
		return err
	}
	say("fence %d", c.Token())
	failed := make(chan error)
	for g := range 4 {
		go func() {
			for i := 0; ; i++ {
				key, value := fmt.Sprintf("k/%d/%d", g, i%50), fmt.Sprint(i)
				e, err := s.Put(ctx, key, []byte(value), backend.PutOptions{})
				if err != nil {
					failed <- err
					return
				}
				say("put %s %s %d", key, value, e.Revision)
			}
		}()
	}
	go func() {
		for {
			ev, err := w.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			say("seen %d %s", ev.Revision, ev.Token)
		}
	}()
	return <-failed
}

// After kill -9 every acknowledged write is there, revisions and fencing
// tokens go on from where they were, and a watch resumes without a gap.
func TestKill(t *testing.T) {
	if path := os.Getenv(crashFile); path != "" {
		t.Fatal(crashChild(path))
	}
	path := filepath.Join(t.TempDir(), "kv.db")
	var fence uint64
	var last backend.Revision
	for round := range 4 {
		acked, token, tokenRev := runAndKill(t, path, 200+rand.IntN(300), &fence)
		s, err := openURL(t.Context(), "bolt://"+path+"?history=true", boltkv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		newest := last
		for key, e := range acked {
			if e.Revision <= last {
				t.Errorf("round %d: revision %d was given again", round, e.Revision)
			}
			newest = max(newest, e.Revision)
			got, err := s.Get(t.Context(), key, backend.GetOptions{})
			if err != nil || got.Revision < e.Revision || got.Revision == e.Revision && string(got.Value) != string(e.Value) {
				t.Errorf("round %d: acknowledged %s=%s at %d, found %s at %d (%v)",
					round, key, e.Value, e.Revision, got.Value, got.Revision, err)
			}
		}
		w, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: token})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		for rev := tokenRev + 1; ; rev++ { // every revision is one put
			ev, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if ev.Kind == backend.Progress {
				if last = ev.Revision; last < newest {
					t.Errorf("round %d: the watch ends at %d, before %d", round, last, newest)
				}
				break
			}
			if ev.Revision != rev {
				t.Fatalf("round %d: revision %d after %d", round, ev.Revision, rev-1)
			}
		}
		if err := errors.Join(w.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// runAndKill runs a child until it has acknowledged some writes. It returns the
// last one of each key, and the last token of the child's watch.
func runAndKill(t *testing.T, path string, writes int, fence *uint64) (
	acked map[string]backend.Entry, token backend.Token, tokenRev backend.Revision,
) {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKill$")
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
	}()
	acked = map[string]backend.Entry{}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); {
		var e backend.Entry
		var value string
		var f uint64
		line := lines.Text()
		if _, err := fmt.Sscanf(line, "put %s %s %d", &e.Key, &value, &e.Revision); err == nil {
			e.Value = []byte(value)
			if e.Revision > acked[e.Key].Revision {
				acked[e.Key] = e
			}
			if n++; n == writes {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			continue // what it said before it died was acknowledged, too
		}
		if _, err := fmt.Sscanf(line, "seen %d %s", &tokenRev, &token); err == nil {
			continue
		}
		if _, err := fmt.Sscanf(line, "fence %d", &f); err == nil {
			if f <= *fence {
				t.Errorf("fencing token %d after %d", f, *fence)
			}
			*fence = f
			continue
		}
		t.Fatalf("the child says: %s", line)
	}
	if len(acked) == 0 || token == "" {
		t.Fatal("the child said nothing")
	}
	return acked, token, tokenRev
}
