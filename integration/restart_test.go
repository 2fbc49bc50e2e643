package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/backendtest"
	"github.com/polykv/kv/internal/testserver"
)

// TestKilledServer kills a server, with SIGKILL, under running watches
// and eight writers. On a Lossless store no write that was acknowledged may be
// lost, and no event lost or repeated; on the others no watch may end, and all
// arrive at the store's state. goleak looks for what is left, in TestMain.
func TestKilledServer(t *testing.T) {
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			spec := testserver.Spec{Store: store, Persist: true}
			if store == testserver.Redis {
				spec.Config = []string{"appendfsync always"} // what is acknowledged is on the disk
			}
			srv := testserver.Start(t, spec)
			open := func() *kv.Store {
				s, err := openURL(t, drivers, srv.URL()+"/root")
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			killedServer(t, srv, open)
		})
	}
}

func killedServer(t *testing.T, srv *testserver.Server, open func() *kv.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	reader := open()
	type stream struct {
		w *kv.Watch[[]byte]
		v *backendtest.Validator
	}
	var streams []stream
	for _, opts := range [][]kv.WatchOption{nil, {kv.FromSnapshot()}} {
		w, err := reader.Watch(ctx, "", opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		streams = append(streams, stream{w, &backendtest.Validator{
			Options: backend.WatchOptions{Snapshot: opts != nil}, Caps: reader.Capabilities(),
		}})
	}
	h := &history{}
	var writing sync.WaitGroup
	stop := make(chan struct{})
	clients := []*kv.Store{open(), open(), reader}
	for i := range 8 {
		writing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := h.write(ctx, clients[i%len(clients)], fmt.Sprintf("w%d/%d", i, rand.IntN(4)), n); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	acknowledged := func(more int) {
		t.Helper()
		for want := h.acknowledged() + more; h.acknowledged() < want; time.Sleep(5 * time.Millisecond) {
			if ctx.Err() != nil || t.Failed() {
				t.Fatal("the writers do not get on")
			}
		}
	}
	kills := 1
	if reader.Capabilities().Lossless {
		kills = 2
	}
	for range kills {
		acknowledged(200)
		if err := srv.Kill(0); err != nil {
			t.Fatal(err)
		}
		if err := srv.Restart(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged(200)
	close(stop)
	writing.Wait()
	// What is uncertain may still land, until a write of the same client has come back.
	for i, s := range clients {
		for {
			if err := h.write(ctx, s, fmt.Sprintf("end/%d", i), 0); err != nil {
				t.Fatal(err)
			}
			if h.lastAcknowledged() {
				break
			}
		}
	}
	want, err := kv.Collect(reader.List(ctx, ""))
	if err != nil {
		t.Fatal(err)
	}
	for i, st := range streams {
		for !sameState(st.v.Now(), want) {
			ev, err := st.w.Next(ctx)
			if err != nil {
				t.Fatalf("watch %d has %d of %d keys: %v", i, len(st.v.Now()), len(want), err)
			}
			if err := st.v.Observe(event(ev)); err != nil {
				t.Fatalf("watch %d: %v", i, err)
			}
		}
		if err := st.v.Complete(h.changes); err != nil {
			t.Errorf("watch %d: %v", i, err)
		}
	}
	t.Logf("%d writes were acknowledged, %d are uncertain", h.acknowledged(), len(h.changes)-h.acknowledged())
}

func sameState(now map[string]backend.Entry, want []kv.Entry[[]byte]) bool {
	for _, e := range want {
		if now[e.Key].Revision != e.Revision {
			return false
		}
	}
	return len(now) == len(want)
}

func event(ev kv.Event[[]byte]) backend.Event {
	return backend.Event{Kind: ev.Kind, Token: ev.Token, Entry: backend.Entry{
		Key: ev.Key, Value: ev.Value, Revision: ev.Revision, Created: ev.Entry.Created,
	}}
}

// history is what the writers did, key by key in order: each key has one writer.
type history struct {
	mu      sync.Mutex
	changes []backendtest.Change
	acks    int
	last    bool // the last write was acknowledged
}

// write puts or deletes key, and notes what is known of it.
func (h *history) write(ctx context.Context, s *kv.Store, key string, n int) error {
	c := backendtest.Change{Key: key, Delete: n%5 == 4}
	var err error
	if c.Delete {
		err = s.Delete(ctx, key)
	} else {
		c.Value = fmt.Appendf(nil, "%s %d %d", key, n, rand.Uint64())
		var e kv.Entry[[]byte]
		e, err = s.Put(ctx, key, c.Value)
		c.Revision = e.Revision
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = err == nil
	switch {
	case err == nil:
		h.acks++
	case errors.Is(err, kv.ErrUncertain):
		c.Uncertain = true
	case errors.Is(err, kv.ErrUnavailable), errors.Is(err, kv.ErrNotFound):
		return nil // it was not done
	default:
		return err
	}
	h.changes = append(h.changes, c)
	return nil
}

func (h *history) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

func (h *history) lastAcknowledged() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
