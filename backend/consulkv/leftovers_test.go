package consulkv_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
)

// A program runs twice on one server: it finds what it finds on a fresh one, and leaves the schema's version and nothing
// else, neither names nor sessions.
func TestNothingIsLeft(t *testing.T) {
	f := setUp(t)
	ctx := f.Context()
	before := f.sessions()
	for round := range 2 {
		s := f.net.open(t, f.addr, f.root)
		w, err := s.Watch(ctx, "", backend.WatchOptions{Snapshot: true})
		f.noErr(err)
		if ev := f.next(w); ev.Kind != backend.Synced {
			t.Fatalf("round %d begins with %v of %q", round, ev.Kind, ev.Key)
		}
		for _, key := range []string{"a", "a/b/c", "😀/\t/..", "d/x", "d/y"} {
			_, err := s.Put(ctx, key, []byte(key), backend.PutOptions{If: backend.Absent})
			f.noErr(err)
		}
		_, err = s.Put(ctx, "short", nil, backend.PutOptions{TTL: time.Second})
		f.noErr(err)
		kept, err := s.Register(ctx, "registered", []byte("v"), backend.RegisterOptions{})
		f.noErr(err)
		released, err := s.Register(ctx, "released", nil, backend.RegisterOptions{})
		f.noErr(err)
		f.noErr(released.Release(ctx))
		held, err := s.Contend(ctx, "a/lock", backend.ContendOptions{})
		f.noErr(err)
		f.noErr(held.Wait(ctx))
		waits, err := s.Contend(ctx, "a/lock", backend.ContendOptions{})
		f.noErr(err)
		_, err = s.Contend(ctx, "a/lock", backend.ContendOptions{Try: true})
		f.wantErr(err, backend.ErrLocked)
		_, err = s.Commit(ctx, backend.Txn{
			Checks: []backend.Check{held.Check()},
			Writes: []backend.Write{{Key: "t/1", Value: []byte("v")}, {Key: "t/2", TTL: time.Second}, {Key: "a", Delete: true}},
		})
		f.noErr(err)
		for _, prefix := range []string{"d", "t", "a", "😀"} {
			_, err := s.DeletePrefix(ctx, prefix)
			f.noErr(err)
		}
		f.noErr(errors.Join(waits.Release(ctx), held.Release(ctx), kept.Release(ctx)))
		for gone := false; !gone; { // the event of its end comes before its entry is reaped
			ev := f.next(w)
			gone = ev.Kind == backend.Deleted && ev.Key == "short"
		}
		f.eventually("what has expired is reaped", func() bool {
			names, _, err := f.kv.KV().Keys(f.root, "", nil)
			f.noErr(err)
			return slices.Equal(names, []string{f.root + "=kv/version"})
		})
		f.noErr(w.Close())
		f.noErr(s.Close())
		f.eventually("no session is left", func() bool { return f.sessions() <= before })
	}
	names, _, err := f.kv.KV().Keys(f.root, "", nil)
	f.noErr(err)
	if !slices.Equal(names, []string{f.root + "=kv/version"}) {
		t.Errorf("left are %q", names)
	}
}
