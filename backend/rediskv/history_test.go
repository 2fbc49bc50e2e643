package rediskv_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestHistory: the log stays within its bounds, says so, and a write whose predecessor has left it still tells what was
// there before.
func TestHistory(t *testing.T) {
	root := testserver.UniqueName(t)
	for _, c := range []struct {
		name  string
		h     rediskv.History
		value int
	}{
		{"entries", rediskv.History{Entries: 20}, 1000},
		{"bytes", rediskv.History{Bytes: 40_000}, 1000},
		{"bytes of large values", rediskv.History{Bytes: 40_000}, 100_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := root + "/" + strings.ReplaceAll(c.name, " ", "-")
			s, other := setup(t, rediskv.Options{Root: root, History: c.h})
			first := put(t, s, "old", "before", backend.PutOptions{})
			w, err := s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "k", "v", backend.PutOptions{})
			token := next(t, w).Token
			for i := range 200 {
				put(t, s, "k", strings.Repeat("x", c.value+i), backend.PutOptions{})
			}
			if n := other.XLen(t.Context(), root+"=kv/log").Val(); n > 150 || n < 1 {
				t.Errorf("the log has %d entries", n)
			}
			if _, err := s.Watch(t.Context(), "", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
				t.Errorf("resuming from what has left the log: %v, want ErrHistoryLost", err)
			}
			if _, err = w.Next(t.Context()); !errors.Is(err, backend.ErrHistoryLost) {
				t.Errorf("a watch that fell behind the log: %v, want ErrHistoryLost", err)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			w, err = s.Watch(t.Context(), "", backend.WatchOptions{Prev: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			put(t, s, "old", "after", backend.PutOptions{})
			if ev := next(t, w); ev.Prev == nil || string(ev.Prev.Value) != "before" || ev.Prev.Revision != first.Revision {
				t.Errorf("the previous entry is %+v, want that of revision %d", ev.Prev, first.Revision)
			}
		})
	}
}

// TestAge: old changes leave the log with later writes.
func TestAge(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root, History: rediskv.History{Age: time.Second}})
	put(t, s, "k", strings.Repeat("x", 20_000), backend.PutOptions{})
	eventually(t, "the first change leaves the log", func() bool {
		put(t, s, "k", strings.Repeat("y", 20_000), backend.PutOptions{})
		log := other.XRangeN(t.Context(), root+"=kv/log", "-", "+", 1).Val()
		return len(log) == 1 && !strings.HasPrefix(log[0].Values["v"].(string), "x")
	})
}
