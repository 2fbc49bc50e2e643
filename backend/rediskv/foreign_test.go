package rediskv_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestOtherTypes: SET would destroy a list, and MGET hides it.
func TestOtherTypes(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	if err := other.RPush(t.Context(), root+"/list", "a", "b").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "list", backend.GetOptions{}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Get of a list: %v", err)
	}
	for _, o := range []backend.PutOptions{{}, {If: backend.Absent}, {TTL: time.Minute}} {
		if _, err := s.Put(t.Context(), "list", []byte("v"), o); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Put over a list, %+v: %v, want ErrInvalid", o, err)
		}
	}
	_, err := s.Commit(t.Context(), backend.Txn{Writes: []backend.Write{{Key: "x", Value: []byte("v")}, {Key: "list", Value: []byte("v")}}})
	if !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("Commit over a list: %v, want ErrInvalid", err)
	}
	if _, err := s.DeletePrefix(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if n := other.LLen(t.Context(), root+"/list").Val(); n != 2 {
		t.Errorf("the list has %d elements left", n)
	}
	// A key of this library's that another program made a list of is gone, and stays that program's.
	put(t, s, "k", "v", backend.PutOptions{TTL: 4 * time.Second})
	other.Del(t.Context(), root+"/k")
	other.RPush(t.Context(), root+"/k", "a")
	if n, err := s.Adopt(t.Context(), ""); n != 1 || err != nil {
		t.Errorf("Adopt = %d, %v, want the one deletion", n, err)
	}
	if n := other.LLen(t.Context(), root+"/k").Val(); n != 1 {
		t.Error("the list is gone")
	}
}

// TestForeignTTL: another program's EXPIRE and PERSIST are changes (R11), and what it keeps is not reaped.
func TestForeignTTL(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	ctx := t.Context()
	w := watching(t, s, "", backend.WatchOptions{})

	e := put(t, s, "k", "v", backend.PutOptions{})
	other.PExpire(ctx, root+"/k", time.Hour)
	_, err := s.Put(ctx, "k", []byte("v2"), backend.PutOptions{If: backend.AtRevision, Revision: e.Revision})
	if !errors.Is(err, backend.ErrConflict) {
		t.Errorf("Put at the revision before a foreign EXPIRE: %v, want ErrConflict", err)
	}
	if e, err = s.Get(ctx, "k", backend.GetOptions{}); err != nil || time.Until(e.Expires) < 50*time.Minute {
		t.Errorf("Get = %+v, %v: not the foreign expiry", e, err)
	}

	put(t, s, "kept", "v", backend.PutOptions{TTL: 3 * time.Second})
	other.Persist(ctx, root+"/kept")
	for {
		ev := next(t, w)
		if ev.Key == "kept" && ev.Kind == backend.Deleted {
			t.Fatal("a key that another program keeps was reaped")
		}
		if ev.Key == "kept" && ev.Kind == backend.Updated {
			if !ev.Expires.IsZero() {
				t.Errorf("it still expires at %v", ev.Expires)
			}
			break
		}
	}
	if got := other.Get(ctx, root+"/kept").Val(); got != "v" {
		t.Errorf("it holds %q", got)
	}
}

// TestForeignNames is R5: names that are no keys are counted, and told of once.
func TestForeignNames(t *testing.T) {
	var logged bytes.Buffer
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	for _, name := range []string{"a//b", "dir/", "\xff"} {
		if err := other.Set(t.Context(), root+"/"+name, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if n, err := s.Adopt(t.Context(), ""); n != 0 || err != nil {
			t.Fatalf("Adopt = %d, %v", n, err)
		}
	}
	if n := s.ForeignNames(); n < 6 || strings.Count(logged.String(), "are no keys") != 1 {
		t.Errorf("%d times in two looks at three, logged %q", n, &logged)
	}
}
