package rediskv_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestScriptsForgotten: a server forgets scripts at a restart, a failover and SCRIPT FLUSH.
func TestScriptsForgotten(t *testing.T) {
	s, other := setup(t, rediskv.Options{})
	put(t, s, "k", "1", backend.PutOptions{})
	if err := other.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "2", backend.PutOptions{})
}

// TestTooLarge is R9: what is over the limit is refused before it is sent, whichever call has it. The conformance suite
// does not show it of the default limit, which is half a gigabyte.
func TestTooLarge(t *testing.T) {
	const limit = 1000
	var sent counter
	client := newClient(t, servers.Shared(t, testserver.Spec{Store: testserver.Redis}))
	client.AddHook(&sent)
	s := newStore(t, client, rediskv.Options{Root: testserver.UniqueName(t), MaxValueBytes: limit})
	ctx, fits, over := t.Context(), bytes.Repeat([]byte("v"), limit), bytes.Repeat([]byte("v"), limit+1)
	put(t, s, "k", string(fits), backend.PutOptions{})
	lease, err := s.Register(ctx, "r", fits, backend.RegisterOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	held, err := s.Contend(ctx, "l", backend.ContendOptions{Lease: time.Minute, Value: fits})
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Set(ctx, fits); err != nil {
		t.Fatal(err)
	}
	commit := func(writes ...backend.Write) error { _, err := s.Commit(ctx, backend.Txn{Writes: writes}); return err }
	half := fits[:limit/2]
	for name, f := range map[string]func() error{
		"Put":    func() error { _, err := s.Put(ctx, "k", over, backend.PutOptions{}); return err },
		"Commit": func() error { return commit(backend.Write{Key: "k", Value: over}) },
		"Commit of two": func() error {
			return commit(backend.Write{Key: "a", Value: half}, backend.Write{Key: "b", Value: half})
		},
		"Register": func() error {
			_, err := s.Register(ctx, "r2", over, backend.RegisterOptions{TTL: time.Minute})
			return err
		},
		"Lease.Set": func() error { _, err := lease.Set(ctx, over); return err },
		"Contend": func() error {
			_, err := s.Contend(ctx, "l2", backend.ContendOptions{Lease: time.Minute, Value: over})
			return err
		},
		"Contender.Set": func() error { return held.Set(ctx, over) },
	} {
		silent := false
		for range 3 { // a reaper may look in between
			before := sent.n.Load()
			if err := f(); !errors.Is(err, backend.ErrTooLarge) {
				t.Errorf("%s: %v", name, err)
			}
			silent = silent || sent.n.Load() == before
		}
		if !silent {
			t.Errorf("%s sent requests", name)
		}
	}
	if err := errors.Join(lease.Renew(ctx), held.Renew(ctx), held.Release(ctx)); err != nil {
		t.Error(err)
	}
}

// TestPatternsInRoot: an unescaped * in a prefix has emptied a database.
func TestPatternsInRoot(t *testing.T) {
	root := testserver.UniqueName(t) + "*[a-z]?\\"
	plain := strings.NewReplacer("*", "xxx", "[a-z]", "b", "?", "c", "\\", "").Replace(root)
	s, other := setup(t, rediskv.Options{Root: root})
	for _, native := range []string{root + "/mine", plain + "/theirs", plain + "\\/theirs"} {
		if err := other.Set(t.Context(), native, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	n, err := s.Adopt(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(t.Context(), "mine", backend.GetOptions{}); err != nil || e.Revision == 0 {
		t.Errorf("Get = %+v, %v after Adopt = %d", e, err, n)
	}
	put(t, s, "*", "v", backend.PutOptions{})
	put(t, s, "x", "v", backend.PutOptions{})
	if n, err := s.DeletePrefix(t.Context(), "*"); n != 0 || err != nil {
		t.Errorf("DeletePrefix(*) = %d, %v", n, err)
	}
	if n, err := s.DeletePrefix(t.Context(), ""); n != 3 || err != nil {
		t.Errorf("DeletePrefix = %d, %v, want 3", n, err)
	}
	if n := other.Exists(t.Context(), plain+"/theirs", plain+"\\/theirs").Val(); n != 2 {
		t.Errorf("%d of two foreign keys are left", n)
	}
}

func TestNewerSchema(t *testing.T) {
	root := testserver.UniqueName(t)
	s, other := setup(t, rediskv.Options{Root: root})
	put(t, s, "k", "v", backend.PutOptions{})
	other.HSet(t.Context(), root+"=kv/head", "schema", "2")
	if _, err := s.Put(t.Context(), "k", []byte("v2"), backend.PutOptions{}); !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("Put: %v, want ErrNewerSchema", err)
	}
	fresh, _ := setup(t, rediskv.Options{Root: root})
	if _, err := fresh.Get(t.Context(), "k", backend.GetOptions{}); !errors.Is(err, backend.ErrNewerSchema) {
		t.Errorf("Get of a new store: %v, want ErrNewerSchema", err)
	}
	if got := other.Get(t.Context(), root+"/k").Val(); got != "v" {
		t.Errorf("it holds %q", got)
	}
}

// TestFullMemory: a server without memory refuses a write as a whole.
func TestFullMemory(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{"maxmemory 8mb", "maxmemory-policy noeviction"}})
	s := newStore(t, newClient(t, srv), rediskv.Options{Root: "r", History: rediskv.History{Bytes: 1 << 20}})
	var last int
	for i := range 10_000 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("k%05d", i), bytes.Repeat([]byte("x"), 10_000), backend.PutOptions{}); err != nil {
			if !errors.Is(err, backend.ErrUnavailable) || errors.Is(err, backend.ErrUncertain) {
				t.Fatalf("Put: %v, want ErrUnavailable", err)
			}
			last = i
			break
		}
	}
	if last == 0 {
		t.Fatal("the memory is never full")
	}
	n := 0
	for _, err := range s.List(t.Context(), "", backend.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != last {
		t.Errorf("%d keys after %d successful writes", n, last)
	}
	if n, err := s.Adopt(t.Context(), ""); err == nil && n != 0 {
		t.Errorf("the refused write left something: Adopt = %d", n)
	}
}
