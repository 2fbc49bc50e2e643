package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/lock"
)

// secret stands in every value that a bad call carries, and must stand in no error.
const secret = "s3cret-value"

// within bounds every call of these tests that is expected to end by itself.
const within = 30 * time.Second

// A badCall is one call that is wrong, and the sentinel that says so.
type badCall struct {
	name string
	want error
	do   func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error
}

// badKeys are refused by every operation, before any I/O.
func badKeys(max int) map[string]string {
	return map[string]string{
		"an empty key":                 "",
		"a key of slashes only":        "///",
		"a key of 0xFF bytes":          "\xff\xff",
		"a key with a broken sequence": "a/\xc3\x28",
		"a key with NUL":               "a\x00b",
		"a key that is too long":       strings.Repeat("k", max+1),
	}
}

// keyed are the operations that take a key.
var keyed = map[string]func(ctx context.Context, s *kv.Store, key string) error{
	"get":    func(ctx context.Context, s *kv.Store, key string) error { _, err := s.Get(ctx, key); return err },
	"exists": func(ctx context.Context, s *kv.Store, key string) error { _, err := s.Exists(ctx, key); return err },
	"get many": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.GetMany(ctx, []string{"kept", key})
		return err
	},
	"put": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.Put(ctx, key, []byte(secret))
		return err
	},
	"create": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.Create(ctx, key, []byte(secret))
		return err
	},
	"update": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.Update(ctx, key, []byte(secret), 1)
		return err
	},
	"delete": func(ctx context.Context, s *kv.Store, key string) error { return s.Delete(ctx, key) },
	"modify": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.Modify(ctx, key, func(e *kv.Entry[[]byte]) error { e.Value = []byte(secret); return nil }, kv.Upsert())
		return err
	},
	"register": func(ctx context.Context, s *kv.Store, key string) error {
		_, err := s.Register(ctx, key, []byte(secret), 30*time.Second)
		return err
	},
	"watch key": func(ctx context.Context, s *kv.Store, key string) error {
		w, err := s.WatchKey(ctx, key)
		if err == nil {
			w.Close()
		}
		return err
	},
	"commit": func(ctx context.Context, s *kv.Store, key string) error {
		tx := s.Txn()
		tx.Put("beside", []byte(secret))
		tx.Put(key, []byte(secret))
		_, err := tx.Commit(ctx)
		return err
	},
	"check": func(ctx context.Context, s *kv.Store, key string) error {
		tx := s.Txn()
		tx.IfAbsent(key)
		tx.Put("beside", []byte(secret))
		_, err := tx.Commit(ctx)
		return err
	},
	"lock": func(ctx context.Context, s *kv.Store, key string) error {
		held, err := lock.TryLock(ctx, s, key)
		if err == nil {
			held.Unlock(ctx)
		}
		return err
	},
}

// badCalls is the rest: one row an input.
var badCalls = []badCall{
	{"a value that is too large", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Put(ctx, "kept", tooLarge(s))
		return err
	}},
	{"a value that is too large, created", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Create(ctx, "large", tooLarge(s))
		return err
	}},
	{"a value that is too large, conditional", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "kept", tooLarge(s), kept.Revision)
		return err
	}},
	{"a value that is too large, modified", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Modify(ctx, "kept", func(e *kv.Entry[[]byte]) error { e.Value = tooLarge(s); return nil })
		return err
	}},
	{"a value that is too large, registered", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Register(ctx, "large", tooLarge(s), 30*time.Second)
		return err
	}},
	{"a value that is too large, in a transaction", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		tx := s.Txn()
		tx.Put("beside", []byte(secret))
		tx.Put("kept", tooLarge(s))
		_, err := tx.Commit(ctx)
		return err
	}},
	{"2 MiB, or more where the store takes that", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Put(ctx, "kept", bytes.Repeat([]byte(secret), max(2<<20, s.Capabilities().MaxValueBytes)/len(secret)+1))
		return err
	}},
	{"a transaction of 65 operations", kv.ErrTooLarge, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		tx := s.Txn()
		for i := range 65 {
			tx.Put(fmt.Sprint("many/", i), []byte(secret))
		}
		_, err := tx.Commit(ctx)
		return err
	}},
	{"two writes of one key in a transaction", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		tx := s.Txn()
		tx.Put("kept", []byte(secret))
		tx.Delete("/kept/")
		_, err := tx.Commit(ctx)
		return err
	}},
	{"an update at a later revision", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "kept", []byte(secret), kept.Revision+1000)
		return err
	}},
	{"an update at an earlier revision", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "kept", []byte(secret), max(1, kept.Revision-1))
		return err
	}},
	{"an update at the largest revision there is", kv.ErrConflict, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "kept", []byte(secret), ^kv.Revision(0))
		return err
	}},
	{"an update of a missing key", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "missing", []byte(secret), kept.Revision)
		return err
	}},
	{"a delete at a wrong revision", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		return s.Delete(ctx, "kept", kv.IfRevision(kept.Revision+1000))
	}},
	{"a delete of a missing key at a revision", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		return s.Delete(ctx, "missing", kv.IfRevision(kept.Revision))
	}},
	{"a check at a wrong revision", kv.ErrConflict, func(ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) error {
		tx := s.Txn()
		tx.IfRevision("kept", kept.Revision+1000)
		tx.Put("beside", []byte(secret))
		_, err := tx.Commit(ctx)
		if check := (*kv.CheckError)(nil); !errors.As(err, &check) {
			return fmt.Errorf("no *CheckError: %v", err)
		}
		return err
	}},
	{"a delete of a missing key", kv.ErrNotFound, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		return s.Delete(ctx, "missing")
	}},
	{"a create of a key that is there", kv.ErrExists, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Create(ctx, "kept", []byte(secret))
		return err
	}},
	{"an update at revision 0", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "kept", []byte(secret), 0)
		return err
	}},
	{"an update of a missing key at revision 0", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Update(ctx, "missing", []byte(secret), 0)
		return err
	}},
	{"a delete at revision 0", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		return s.Delete(ctx, "kept", kv.IfRevision(0))
	}},
	{"a check at revision 0", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		tx := s.Txn()
		tx.IfRevision("kept", 0)
		tx.Put("beside", []byte(secret))
		_, err := tx.Commit(ctx)
		return err
	}},
	{"a TTL just under a second", kv.ErrInvalid, putTTL(time.Second - 1)},
	{"a TTL of nothing", kv.ErrInvalid, putTTL(0)},
	{"a TTL below nothing", kv.ErrInvalid, putTTL(-time.Hour)},
	{"a TTL under a second in a transaction", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		tx := s.Txn()
		tx.Put("beside", []byte(secret))
		tx.Put("short", []byte(secret), kv.TTL(time.Millisecond))
		_, err := tx.Commit(ctx)
		return err
	}},
	{"a registration under a second", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Register(ctx, "short", []byte(secret), 500*time.Millisecond)
		return err
	}},
	{"a list of nothing", kv.ErrInvalid, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := kv.Collect(s.List(ctx, "", kv.Limit(0)))
		return err
	}},
	{"a list below a malformed prefix", kv.ErrInvalidKey, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := kv.Collect(s.List(ctx, "a\x00"))
		return err
	}},
	{"a delete below a malformed prefix", kv.ErrInvalidKey, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.DeletePrefix(ctx, "\xff")
		return err
	}},
	{"a malformed view", kv.ErrInvalidKey, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Sub("\xff").Put(ctx, "kept", []byte(secret))
		return err
	}},
	{"a malformed resume token", nil, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		w, err := s.Watch(ctx, "", kv.Resume("nonsense"))
		if err == nil {
			w.Close()
			return nil
		}
		if !s.Capabilities().Resumable && errors.Is(err, errors.ErrUnsupported) || errors.Is(err, kv.ErrInvalid) {
			return nil
		}
		return err
	}},
}

func putTTL(d time.Duration) func(context.Context, *kv.Store, kv.Entry[[]byte]) error {
	return func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
		_, err := s.Put(ctx, "kept", []byte(secret), kv.TTL(d))
		return err
	}
}

// tooLarge returns a value of one byte more than the store takes.
func tooLarge(s *kv.Store) []byte {
	n := s.Capabilities().MaxValueBytes + 1
	return bytes.Repeat([]byte(secret), n/len(secret)+1)[:n]
}

// TestBadInput makes every wrong call on every store: the right sentinel, nothing of the value in the error, and what was
// there is still there, on a store that still works.
func TestBadInput(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		kept, err := s.Put(ctx, "kept", []byte("what was there"))
		if err != nil {
			t.Fatal(err)
		}
		calls := badCalls[:len(badCalls):len(badCalls)]
		for what, key := range badKeys(s.Capabilities().MaxKeyBytes) {
			for op, do := range keyed {
				calls = append(calls, badCall{what + " to " + op, kv.ErrInvalidKey, func(ctx context.Context, s *kv.Store, _ kv.Entry[[]byte]) error {
					return do(ctx, s, key)
				}})
			}
		}
		for _, call := range calls {
			err := call.do(ctx, s, kept)
			if !errors.Is(err, call.want) {
				t.Errorf("%s: %v, want %v", call.name, err, call.want)
			}
			checkError(t, call.name, err)
		}
		unharmed(t, ctx, s, kept)
	})
}

// checkError fails for an error that is not a *kv.Error, shows a value or a password, or is longer than a line of a log
// should be.
func checkError(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%s: the error shows a secret", what)
	}
	if len(err.Error()) > 2<<10 {
		t.Errorf("%s: the error is %d bytes long", what, len(err.Error()))
	}
	if e := (*kv.Error)(nil); !errors.As(err, &e) {
		t.Errorf("%s: not a *kv.Error: %T", what, err)
	}
}

// unharmed fails unless kept is as it was, alone, and the store takes writes.
func unharmed(t *testing.T, ctx context.Context, s *kv.Store, kept kv.Entry[[]byte]) {
	t.Helper()
	entries, err := kv.Collect(s.List(ctx, ""))
	if err != nil || len(entries) != 1 || entries[0].Key != kept.Key || entries[0].Revision != kept.Revision ||
		!bytes.Equal(entries[0].Value, kept.Value) && kept.Value != nil {
		t.Errorf("afterwards there is %v, %v; want only %v", entries, err, kept)
	}
	if _, err := s.Update(ctx, kept.Key, []byte("after"), kept.Revision); err != nil {
		t.Errorf("afterwards the store does not work: %v", err)
	}
}
