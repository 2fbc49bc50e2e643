package boltkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/internal/pace"
)

func TestURL(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	for raw, path := range map[string]string{
		"bolt://" + dir + "/abs.db":                                    "abs.db",
		"bolt://./rel.db":                                              "rel.db",
		"bolt://./sub/with%20space.db":                                 "sub/with space.db",
		"bolt://../" + filepath.Base(dir) + "/up.db?bucket=a/b":        "up.db",
		"bolt://./meta.db?bucket=a&meta=books&timeout=1s&nosync=true":  "meta.db",
		"bolt://./h.db?history=true&history_age=1h&history_bytes=1000": "h.db",
	} {
		s, err := openURL(t.Context(), raw, boltkv.Driver{})
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		put(t, s, "k", "v", backend.PutOptions{})
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", raw, info, err)
		}
	}
	for _, raw := range []string{
		"bolt://", "bolt:///", "bolt://.", "bolt://./", "bolt://host/x.db", "bolt://host:1/x.db", "bolt://sub/x.db",
		"bolt://user:secret@./x.db", "bolt://./x.db?bukket=a", "bolt://./x.db?timeout=0s", "bolt://./x.db?timeout=soon",
		"bolt://./x.db?bucket=a&bucket=b", "bolt://./x.db?bucket=/a", "bolt://./x.db?bucket=a&meta=a/b", "bolt://./x/",
	} {
		s, err := openURL(t.Context(), raw, boltkv.Driver{})
		if wantErr(t, raw, err, backend.ErrInvalid); err == nil {
			s.Close()
		}
	}
	if left, err := filepath.Glob("x*"); err != nil || len(left) > 0 {
		t.Errorf("refused URLs made %q, %v", left, err)
	}
}

// R38: a file that is in use is ErrUnavailable, in time.
func TestFileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db := openDB(t, path)
	defer db.Close()
	start := time.Now()
	_, err := openURL(t.Context(), "bolt://"+path+"?timeout=200ms", boltkv.Driver{})
	wantErr(t, "Open", err, backend.ErrUnavailable)
	if d := time.Since(start); d < 100*time.Millisecond || d > 10*time.Second {
		t.Errorf("returned after %v", d)
	}
	pace.Best(t, 900*time.Millisecond, "Open", func() time.Duration {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := openURL(ctx, "bolt://"+path+"?timeout=1s", boltkv.Driver{})
		took := time.Since(start)
		wantErr(t, "Open", err, context.DeadlineExceeded)
		return took
	})
	<-time.After(1100 * time.Millisecond) // the abandoned attempt ends by its own timeout
}

func TestFileThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	_, err := openURL(t.Context(), "bolt://"+dir+"/none/x.db", boltkv.Driver{})
	wantErr(t, "no directory", err, backend.ErrUnavailable, os.ErrNotExist)
	_, err = openURL(t.Context(), "bolt://"+dir+"/none.db?readonly=true", boltkv.Driver{})
	wantErr(t, "no file to read", err, backend.ErrUnavailable, os.ErrNotExist)
}

// Damage is ErrCorrupt, and neither a crash nor a file that stays locked.
func TestCorruptFile(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	s, err := openURL(t.Context(), "bolt://"+good, boltkv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		put(t, s, fmt.Sprint("k", i), "v", backend.PutOptions{})
	}
	put(t, s, "big", string(make([]byte, 100_000)), backend.PutOptions{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	overwritten := bytes.Clone(whole)
	copy(overwritten, bytes.Repeat([]byte{0xa5}, 2*os.Getpagesize()))
	for name, content := range map[string][]byte{
		"text":        bytes.Repeat([]byte("not a database\n"), 10_000),
		"one page":    whole[:os.Getpagesize()],
		"short":       whole[:100],
		"half":        whole[:len(whole)/2],
		"three pages": whole[:3*os.Getpagesize()],
		"overwritten": overwritten,
	} {
		path := filepath.Join(dir, "bad.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openURL(t.Context(), "bolt://"+path+"?timeout=2s", boltkv.Driver{})
		if wantErr(t, name, err, backend.ErrCorrupt); err == nil {
			s.Close()
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err = openURL(t.Context(), "bolt://"+path+"?timeout=2s", boltkv.Driver{}); err != nil {
			t.Errorf("%s: opening the file when it is repaired: %v", name, err)
			continue
		}
		get(t, s, "big")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Buckets of the bookkeeping that are gone, or somebody else's.
func TestDamagedBookkeeping(t *testing.T) {
	for name, damage := range map[string]func(tx *bbolt.Tx) error{
		"records":  func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("kv=kv/records")) },
		"expiries": func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("kv=kv/expiries")) },
		"schema":   func(tx *bbolt.Tx) error { return tx.Bucket([]byte("kv=kv")).Delete([]byte("schema")) },
		"recent":   func(tx *bbolt.Tx) error { return tx.Bucket([]byte("kv=kv")).Put([]byte("recent"), []byte{0, 9, 1}) },
	} {
		path := filepath.Join(t.TempDir(), "kv.db")
		db := openDB(t, path)
		s := boltkv.New(db, boltkv.Options{})
		put(t, s, "k", "v", backend.PutOptions{TTL: time.Hour})
		if err := errors.Join(s.Close(), db.Update(damage)); err != nil {
			t.Fatal(err)
		}
		s = boltkv.New(db, boltkv.Options{})
		_, err := s.Get(t.Context(), "k", backend.GetOptions{})
		wantErr(t, name+": Get", err, backend.ErrCorrupt)
		_, err = s.Put(t.Context(), "k", nil, backend.PutOptions{})
		wantErr(t, name+": Put", err, backend.ErrCorrupt)
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
