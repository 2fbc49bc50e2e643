package consulkv

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// listChildren yields the keys directly below prefix and the directories there.
//
// Consul cuts names off at a separator, but gives no values then. These are
// read for the keys that it names. They are of the same snapshot if each is
// still there and none has changed since the index of the names; otherwise a
// recursive read gives a snapshot at the cost of all that lies deeper.
func (s *Store) listChildren(ctx context.Context, prefix, native string, m mode, keysOnly bool, out func(backend.Entry) bool) error {
	names, index, err := s.names(ctx, native, m, "/")
	if err != nil {
		return err
	}
	var entries byKey
	var ask, askKeys []string
	for _, name := range names {
		if name == native {
			s.skip(name) // "dir/", a folder of the UI's
			continue
		}
		dir, isDir := strings.CutSuffix(name, "/")
		key, ok := s.space.Key(dir)
		switch {
		case !ok:
			s.skip(name)
		case isDir:
			entries = append(entries, backend.Entry{Key: key + "/"})
		default:
			ask = append(ask, name)
			askKeys = append(askKeys, key)
		}
	}
	now := time.Now()
	exact, got := true, 0
	err = s.getMany(ctx, ask, m, func(i int, f found) {
		got++
		exact = exact && f.modify <= index
		if s.expired(f.flags, now) {
			s.reap.add(ask[i], f.modify, f.flags)
			return
		}
		if keysOnly {
			f.value = nil
		}
		entries = append(entries, f.entry(askKeys[i]))
	})
	if err != nil {
		return err
	}
	if !exact || got != len(ask) {
		return s.listDeep(ctx, prefix, native, m, keysOnly, out)
	}
	return emit(entries, out)
}

// listDeep finds children in a recursive read.
func (s *Store) listDeep(ctx context.Context, prefix, native string, m mode, keysOnly bool, out func(backend.Entry) bool) error {
	l, err := s.startListing(ctx, native, m, keysOnly)
	if err != nil {
		return err
	}
	defer l.close()
	var entries byKey
	dirs := map[string]bool{}
	for {
		e, _, err := l.next()
		if err == io.EOF {
			return emit(entries, out)
		}
		if err != nil {
			return err
		}
		child, deeper, _ := keys.Child(prefix, e.Key)
		switch {
		case !deeper:
			entries = append(entries, e)
		case !dirs[child]:
			dirs[child] = true
			entries = append(entries, backend.Entry{Key: child + "/"})
		}
	}
}

func emit(entries byKey, out func(backend.Entry) bool) error {
	slices.SortFunc(entries, func(a, b backend.Entry) int { return strings.Compare(a.Key, b.Key) })
	for _, e := range entries {
		if !out(e) {
			break
		}
	}
	return nil
}
