package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/pace"
)

// TestCorruptFile opens what is no database, or no longer one: ErrCorrupt, and the bytes are left as they were, for
// whoever repairs them.
func TestCorruptFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "good.db")
	s, err := openURL(t, drivers, "bolt://"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "kept", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for name, damaged := range map[string][]byte{
		"text":                        bytes.Repeat([]byte("this is no database\n"), 1000),
		"a file of one byte":          {1},
		"both meta pages overwritten": append(bytes.Repeat([]byte{0xff}, 2*page), good[2*page:]...),
		"cut after the meta pages":    good[:2*page],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := openURL(t, drivers, "bolt://"+path)
			if err == nil {
				_, err = s.Get(t.Context(), "kept")
			}
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Errorf("%v, want %v", err, kv.ErrCorrupt)
			}
			checkError(t, "open", err)
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
				t.Errorf("the file was changed: %d bytes, %v", len(after), err)
			}
		})
	}
}

const holdFile = "KV_TEST_HOLD_FILE"

// TestHeldFile opens a file that another process has open: ErrUnavailable when the timeout of the URL is over, and the
// store as it was once the other process has ended.
func TestHeldFile(t *testing.T) {
	if path := os.Getenv(holdFile); path != "" {
		hold(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "kv.db")
	rawURL := "bolt://" + path + "?timeout=1s"
	s, err := openURL(t, drivers, rawURL)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := s.Put(t.Context(), "kept", []byte("what was there"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHeldFile$")
	child.Env = append(os.Environ(), holdFile+"="+path)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len(holding))); err != nil {
		t.Fatal(err)
	}
	pace.Best(t, 3*time.Second, "open", func() time.Duration {
		start := time.Now()
		_, err := openURL(t, drivers, rawURL)
		took := time.Since(start)
		if took < 900*time.Millisecond {
			t.Errorf("open took %v, want about a second", took)
		}
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("open: %v, want %v", err, kv.ErrUnavailable)
		}
		checkError(t, "open", err)
		return took
	})
	in.Close()
	io.Copy(io.Discard, out)
	if err := child.Wait(); err != nil {
		t.Fatalf("the other process: %v", err)
	}
	if s, err = openURL(t, drivers, rawURL); err != nil {
		t.Fatal(err)
	}
	unharmed(t, t.Context(), s, kept)
}

const holding = "holding\n"

// hold is what the other process does: it has the file open until its standard input ends.
func hold(t *testing.T, path string) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fmt.Print(holding)
	io.Copy(io.Discard, os.Stdin)
}
