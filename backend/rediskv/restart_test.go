package rediskv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestRestartWithoutPersistence: the server comes back empty. Watches say so, revisions and tokens go on growing, and
// nobody is given a lock while the one who held it may still think so.
func TestRestartWithoutPersistence(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{`save ""`}})
	o := rediskv.Options{Root: "r"}
	ctx := t.Context()
	a, b := newStore(t, newClient(t, srv), o), newStore(t, newClient(t, srv), o)

	before := put(t, a, "k", "v", backend.PutOptions{})
	w := watching(t, a, "", backend.WatchOptions{Snapshot: true})
	next(t, w)
	token := next(t, w).Token // of Synced

	const lease = 5 * time.Second // and what is tried before its end is so on a busy machine too
	holder, err := a.Contend(ctx, "l", backend.ContendOptions{Lease: lease, Try: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if err := srv.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(context.WithoutCancel(ctx), 0); err != nil {
		t.Fatal(err)
	}
	renewed := holder.Renewed()

	// b has been there before the restart, so it knows that something was lost.
	if _, err := b.Contend(ctx, "l", backend.ContendOptions{Lease: lease, Try: true}); !errors.Is(err, backend.ErrLocked) {
		t.Errorf("Try right after the restart: %v, want ErrLocked", err)
	}
	c, err := b.Contend(ctx, "l", backend.ContendOptions{Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	// So do others, who were not.
	late := newStore(t, newClient(t, srv), o)
	if _, err := late.Contend(ctx, "l", backend.ContendOptions{Lease: lease, Shared: true, Try: true}); !errors.Is(err, backend.ErrLocked) {
		t.Errorf("Try of a new store after the restart: %v, want ErrLocked", err)
	}
	for waiting := true; waiting; {
		ctx, cancel := context.WithTimeout(ctx, lease/3)
		err := c.Wait(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			err = c.Renew(t.Context())
		} else {
			waiting = false
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if early := lease - time.Since(renewed); early > 0 {
		t.Errorf("admitted %v before the lease of the former holder ended", early)
	}
	if c.Token() <= holder.Token() {
		t.Errorf("token %d after %d", c.Token(), holder.Token())
	}
	select {
	case <-holder.Lost():
	case <-time.After(patience):
		t.Error("the former holder is not told")
	}

	nextErr := func() error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := w.Next(ctx)
		return err
	}
	if err := nextErr(); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("the watch: %v, want ErrHistoryLost", err)
	}
	if _, err := a.Watch(ctx, "", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("resuming: %v, want ErrHistoryLost", err)
	}
	if _, err := a.Put(ctx, "k", nil, backend.PutOptions{If: backend.AtRevision, Revision: before.Revision}); !errors.Is(err, backend.ErrConflict) {
		t.Errorf("Put at the lost revision: %v, want ErrConflict", err)
	}
	if after := put(t, a, "k", "v", backend.PutOptions{}); after.Revision <= before.Revision {
		t.Errorf("revision %d after %d", after.Revision, before.Revision)
	}
}

// TestRestoredBackup: a server that goes back in time has a log that does not continue where a watch was.
func TestRestoredBackup(t *testing.T) {
	s, other := setup(t, rediskv.Options{Root: "restored"})
	ctx := t.Context()
	put(t, s, "k", "1", backend.PutOptions{})
	backup := map[string]string{}
	for _, name := range other.Keys(ctx, "restored*").Val() {
		backup[name] = other.Dump(ctx, name).Val()
	}
	w := watching(t, s, "", backend.WatchOptions{})
	put(t, s, "k", "2", backend.PutOptions{})
	token := next(t, w).Token
	for name, dump := range backup {
		if err := other.RestoreReplace(ctx, name, 0, dump).Err(); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "k", "3", backend.PutOptions{})
	if _, err := w.Next(ctx); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("the watch: %v, want ErrHistoryLost", err)
	}
	if _, err := s.Watch(ctx, "", backend.WatchOptions{Resume: token}); !errors.Is(err, backend.ErrHistoryLost) {
		t.Errorf("resuming: %v, want ErrHistoryLost", err)
	}
}
