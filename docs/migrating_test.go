package docs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/lock"
)

// What stands between "// SHOWN:" and "// END" is shown, word for word, in migrating-from-valkeyrie.md: TestMigratingShows
// compares them.

// SHOWN:

// OldBolt reads values of valkeyrie's and libkv's bbolt store: 8 bytes of a version stand before each.
type OldBolt struct{}

func (OldBolt) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil } // writes no header

func (OldBolt) Decode(src []byte) ([]byte, error) {
	if len(src) < 8 {
		return nil, fmt.Errorf("%d bytes, too short for a version", len(src))
	}
	return append([]byte{}, src[8:]...), nil
}

// END

// SHOWN:

// OldRedis reads values that valkeyrie's and libkv's Redis store wrote with their JSON codec.
type OldRedis struct{}

func (OldRedis) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil } // writes no envelope

func (OldRedis) Decode(src []byte) ([]byte, error) {
	var old struct {
		Key, Value json.RawMessage
		LastIndex  uint64
	}
	if err := json.Unmarshal(src, &old); err != nil {
		return nil, err
	}
	if old.Key == nil || old.Value == nil {
		return nil, errors.New("JSON, and not valkeyrie's envelope")
	}
	value := []byte{}
	err := json.Unmarshal(old.Value, &value) // base64
	return value, err
}

// END

// SHOWN:

// Migrate writes what from has, decoded, into to, and returns how many keys that were. It can be run again: a key that is
// in to already stays as it is there.
func Migrate(ctx context.Context, from *kv.Typed[[]byte], to *kv.Store) (n int, err error) {
	for e, err := range from.List(ctx, "") {
		if err != nil {
			return n, err // names the key; the value is not of the old format
		}
		switch _, err := to.Create(ctx, e.Key, e.Value); {
		case err == nil:
			n++
		case !errors.Is(err, kv.ErrExists):
			return n, err
		}
	}
	return n, nil
}

// END

func migrateBolt(ctx context.Context, path string) (int, error) {
	// SHOWN:
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	old := kv.New(boltkv.New(db, boltkv.Options{Root: "libkv"})) // the bucket that Config.Bucket named
	defer old.Close()
	s := kv.New(boltkv.New(db, boltkv.Options{Root: "app"}))
	defer s.Close()
	n, err := Migrate(ctx, kv.NewTyped(old, OldBolt{}, ""), s)
	// END
	return n, err
}

// The old file's values are read in place, by the codec, and copied.
func TestMigratesBolt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libkv.db")
	want := map[string]string{"a": "value", "network/v1/b": "", "network/v1/c": "\x00\xff"}
	oldBoltFile(t, path, want, nil)
	for round, n := range []int{3, 0} { // again: nothing is left to do
		if got, err := migrateBolt(t.Context(), path); got != n || err != nil {
			t.Errorf("round %d: %d, %v", round, got, err)
		}
	}
	s, err := kv.Drivers{boltkv.Driver{}}.Open(t.Context(), "bolt://"+path+"?bucket=app")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	same(t, s, want)
}

func migrateBoltNames(ctx context.Context, db *bbolt.DB, s *kv.Store) error {
	// SHOWN:
	old := map[string][]byte{}
	if err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("libkv")).ForEach(func(name, v []byte) (err error) {
			old[string(name)], err = OldBolt{}.Decode(v)
			return err
		})
	}); err != nil {
		return err
	}
	for name, value := range old { // not within the transaction, which writers would wait for
		if _, err := s.Put(ctx, name, value); err != nil { // docker/network/1/ becomes docker/network/1
			return err
		}
	}
	// END
	return nil
}

// Names that end in a slash are no keys, and are passed over until they are renamed.
func TestMigratesNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libkv.db")
	oldBoltFile(t, path, map[string]string{"docker/network/1/": "one", "docker/network/2": "two"}, nil)
	if n, err := migrateBolt(t.Context(), path); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := kv.New(boltkv.New(db, boltkv.Options{Root: "app"}))
	defer s.Close()
	if err := migrateBoltNames(t.Context(), db, s); err != nil {
		t.Fatal(err)
	}
	same(t, s, map[string]string{"docker/network/1": "one", "docker/network/2": "two"})
}

// oldBoltFile writes values as valkeyrie's bbolt store does, and others as they are.
func oldBoltFile(t *testing.T, path string, values, others map[string]string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("libkv"))
		if err != nil {
			return err
		}
		version := byte(0)
		for k, v := range values {
			version++ // the least significant of 8 bytes comes first
			if err := b.Put([]byte(k), append([]byte{version, 0, 0, 0, 0, 0, 0, 0}, v...)); err != nil {
				return err
			}
		}
		for k, v := range others {
			if err := b.Put([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A value that is too short for a version is an error of its own key, where valkeyrie panicked.
func TestMigratesBoltWithAForeignValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libkv.db")
	oldBoltFile(t, path, map[string]string{"a": "v"}, map[string]string{"b": "short"})
	n, err := migrateBolt(t.Context(), path)
	if bad := (*codec.Error)(nil); n != 1 || !errors.As(err, &bad) || bad.Key != "b" {
		t.Errorf("%d, %v", n, err)
	}
}

// The envelope is what encoding/json makes of a struct with a []byte.
func TestMigratesRedis(t *testing.T) {
	ctx := t.Context()
	from, to := kv.New(memkv.New(memkv.Options{})), kv.New(memkv.New(memkv.Options{}))
	defer from.Close()
	defer to.Close()
	want := map[string]string{"a": "value", "d/b": "", "d/c": "\x00\xff"}
	for k, v := range want {
		envelope, err := json.Marshal(struct {
			Key       string
			Value     []byte
			LastIndex uint64
		}{"/" + k, []byte(v), 12345})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.Put(ctx, k, envelope); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Migrate(ctx, kv.NewTyped(from, OldRedis{}, ""), to); n != len(want) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	same(t, to, want)
	if _, err := from.Put(ctx, "e", []byte(`{"another": "thing"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := Migrate(ctx, kv.NewTyped(from, OldRedis{}, ""), to); !errors.As(err, new(*codec.Error)) {
		t.Errorf("of JSON that is no envelope: %v", err)
	}
}

func same(t *testing.T, s *kv.Store, want map[string]string) {
	t.Helper()
	n := 0
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := want[e.Key]; !ok || v != string(e.Value) {
			t.Errorf("%q = %q, want %q, %v", e.Key, e.Value, v, ok)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d keys, want %d", n, len(want))
	}
}

func useConfig(ctx context.Context, s *kv.Store, apply func(map[string]string)) error {
	// SHOWN:
	w, err := s.Watch(ctx, "traefik", kv.FromSnapshot())
	if err != nil {
		return err
	}
	config := map[string]string{}
	whole := false
	for ev, err := range w.Events() { // leaving the loop closes the watch
		if err != nil {
			return err
		}
		switch ev.Kind {
		case kv.Existing, kv.Created, kv.Updated:
			config[ev.Key] = string(ev.Value)
		case kv.Deleted:
			delete(config, ev.Key)
		case kv.Resynced: // differences follow, after an outage
			whole = false
		case kv.Synced:
			whole = true
		}
		if whole {
			apply(config)
		}
	}
	// END
	return nil
}

// WatchTree's lists are made of a watch's events.
func TestWatchTree(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.Put(ctx, "traefik/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	var seen []string
	err := useConfig(ctx, s, func(config map[string]string) {
		seen = append(seen, fmt.Sprint(config))
		var err error
		switch len(seen) {
		case 1:
			_, err = s.Put(ctx, "traefik/b", []byte("2"))
		case 2:
			err = s.Delete(ctx, "traefik/a")
		case 3:
			cancel()
		}
		if err != nil {
			t.Error(err)
		}
	})
	if want := "[map[traefik/a:1] map[traefik/a:1 traefik/b:2] map[traefik/b:2]]"; fmt.Sprint(seen) != want || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v; want %s", seen, err, want)
	}
}

func holdLock(ctx context.Context, s *kv.Store, work func(context.Context) error, report []byte) error {
	// SHOWN:
	held, err := lock.Lock(ctx, s, "jobs/nightly", lock.Lease(30*time.Second))
	if err != nil {
		return err // ctx's, if that ended: never (nil, nil)
	}
	defer held.Unlock(ctx)
	if err := work(held.Context(ctx)); err != nil { // ends with cause kv.ErrLockLost when the lock is lost
		return err
	}
	_, err = s.Put(ctx, "jobs/report", report, kv.If(held.Check())) // refused by the store if it was lost meanwhile
	// END
	return err
}

func TestHoldLock(t *testing.T) {
	s := kv.New(memkv.New(memkv.Options{}))
	defer s.Close()
	if err := holdLock(t.Context(), s, func(ctx context.Context) error {
		if _, err := lock.TryLock(ctx, s, "jobs/nightly"); !errors.Is(err, kv.ErrLocked) {
			t.Errorf("somebody else takes it: %v", err)
		}
		return ctx.Err()
	}, []byte("done")); err != nil {
		t.Error(err)
	}
	if e, err := s.Get(t.Context(), "jobs/report"); err != nil || string(e.Value) != "done" {
		t.Errorf("%+v, %v", e, err)
	}
}

var (
	shown    = regexp.MustCompile(`(?s)\t*// SHOWN:\n+(.*?)\n+\t*// END\n`)
	goBlock  = regexp.MustCompile("(?s)```go\n(.*?)\n```")
	indented = regexp.MustCompile(`(?m)^\t`)
)

// The page shows code that is compiled and run here, and nothing else.
func TestMigratingShows(t *testing.T) {
	source, err := os.ReadFile("migrating_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("migrating-from-valkeyrie.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	for _, m := range shown.FindAllStringSubmatch(string(source), -1) {
		text := m[1]
		if strings.HasPrefix(text, "\t") {
			text = indented.ReplaceAllString(text, "")
		}
		tried[text] = false
	}
	for _, m := range goBlock.FindAllStringSubmatch(string(page), -1) {
		if _, ok := tried[m[1]]; !ok {
			t.Errorf("the page shows what is not tried:\n%s", m[1])
		}
		tried[m[1]] = true
	}
	for text, ok := range tried {
		if !ok {
			t.Errorf("the page does not show:\n%s", text)
		}
	}
}
