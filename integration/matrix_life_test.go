package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/internal/pace"
	"github.com/polykv/kv/internal/testserver"
	"github.com/polykv/kv/watch"
)

// TestThatTakesTime runs, at the same time, what mostly waits for leases to end: Consul's take 20 s.
func TestThatTakesTime(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for name, f := range map[string]func(*testing.T){
		"Registrations":         registrations,
		"CrashedRegistrant":     crashedRegistrant,
		"PredecessorTTLs":       predecessorTTLs,
		"PredecessorHeartbeat":  predecessorHeartbeat,
		"PredecessorTwoLeaders": predecessorTwoLeaders,
	} {
		all.Go(func() { t.Run(name, f) })
	}
}

// lasting is a lease that is renewed in time on a machine that stands still for two seconds.
const lasting = 4 * time.Second

// registrations keeps keys alive for longer than their lease, on every store at once since Consul's takes 20 s, and
// ends them in every way there is.
func registrations(t *testing.T) {
	onEveryURLAtOnce(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, other := open(t), open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 3*within)
		defer cancel()
		services := kv.NewTyped(s, codec.JSON[int](), "services")
		seen := kv.NewTyped(other, codec.JSON[int](), "services")
		w := ok[*kv.Watch[int]](t)(seen.Watch(ctx, ""))
		defer w.Close()
		next := func(kind kv.Kind, key string) kv.Event[int] {
			t.Helper()
			for {
				ev := ok[kv.Event[int]](t)(w.Next(ctx))
				if ev.Kind == kv.Updated && ev.Key == "written" && key != "written" && !w.Lossless() {
					continue // Consul writes once more what was put over a lease, to take it out of the session's hands
				}
				if ev.Kind != kind || ev.Key != key {
					t.Fatalf("%v of %q, want %v of %q", ev.Kind, ev.Key, kind, key)
				}
				return ev
			}
		}
		ended := func(reg *kv.Registration[int], lost bool) {
			t.Helper()
			select {
			case <-reg.Done():
			case <-ctx.Done():
				t.Fatal("the registration does not end")
			}
			if err := reg.Err(); errors.Is(err, kv.ErrLeaseLost) != lost || !lost && err != nil {
				t.Errorf("lost is %v, the error %v", lost, err)
			}
		}
		register := func(key string) *kv.Registration[int] {
			t.Helper()
			call, cancel := context.WithCancel(ctx)
			reg := ok[*kv.Registration[int]](t)(services.Register(call, key, 1, lasting))
			cancel() // bounds the call only
			if ev := next(kv.Created, key); ev.Revision != reg.Entry().Revision || !ev.Expires.IsZero() {
				t.Errorf("created at %d, expires %v; registered at %d", ev.Revision, ev.Expires, reg.Entry().Revision)
			}
			return reg
		}

		kept := register("kept")
		timer := time.NewTimer(max(lasting, s.Capabilities().MinLease) + s.Capabilities().TTLSlack + time.Second)
		defer timer.Stop()

		released := register("released")
		if err := released.Release(ctx); err != nil {
			t.Error(err)
		}
		next(kv.Deleted, "released")
		ended(released, false)

		if err := released.Release(ctx); err != nil { // again
			t.Error(err)
		}
		if _, err := services.Register(ctx, "taken", 1, lasting, kv.IfAbsent()); err != nil {
			t.Error(err)
		}
		next(kv.Created, "taken")
		if _, err := seen.Register(ctx, "taken", 2, lasting, kv.IfAbsent()); !errors.Is(err, kv.ErrExists) {
			t.Errorf("registered twice: %v", err)
		}

		// Deleted and overwritten by another client: lost, and what the other one wrote stays.
		deleted, written := register("deleted"), register("written")
		work := deleted.Context(ctx)
		if err := seen.Delete(ctx, "deleted"); err != nil {
			t.Fatal(err)
		}
		next(kv.Deleted, "deleted")
		ok[kv.Entry[int]](t)(seen.Put(ctx, "written", 9))
		next(kv.Updated, "written")
		<-work.Done()
		if cause := context.Cause(work); !errors.Is(cause, kv.ErrLeaseLost) {
			t.Errorf("the work ended for %v", cause)
		}
		for _, reg := range []*kv.Registration[int]{deleted, written} {
			ended(reg, true)
			if err := reg.Update(ctx, 5); !errors.Is(err, kv.ErrLeaseLost) {
				t.Errorf("%s: an update afterwards: %v", reg.Entry().Key, err)
			}
			if err := reg.Release(ctx); err != nil {
				t.Errorf("%s: a release afterwards: %v", reg.Entry().Key, err)
			}
		}
		if e, err := seen.Get(ctx, "written"); err != nil || e.Value != 9 {
			t.Errorf("what the other client wrote: %+v, %v", e, err)
		}

		// Alive beyond the lease, without an event, at the same revision.
		select {
		case <-timer.C:
		case <-kept.Done():
			t.Fatalf("lost: %v", kept.Err())
		}
		if e, err := seen.Get(ctx, "kept"); err != nil || e.Revision != kept.Entry().Revision {
			t.Errorf("after a lease: %+v, %v; registered at %d", e, err, kept.Entry().Revision)
		}
		if err := kept.Update(ctx, 2); err != nil {
			t.Fatal(err)
		}
		if ev := next(kv.Updated, "kept"); ev.Value != 2 || ev.Revision != kept.Entry().Revision {
			t.Errorf("the renewals made an event: %+v", ev)
		}
		// The end of the store ends what it registered.
		closing := make(chan error, 1)
		go func() { closing <- s.Close() }()
		gone := map[string]bool{}
		for range 2 {
			ev := ok[kv.Event[int]](t)(w.Next(ctx))
			gone[ev.Key] = ev.Kind == kv.Deleted
		}
		if !gone["kept"] || !gone["taken"] {
			t.Errorf("at the end went %v", gone)
		}
		if err := <-closing; err != nil {
			t.Error(err)
		}
		ended(kept, false)
	})
}

// crashedRegistrant cuts a client off for good: its key goes by the end of the lease and the slack, and not before; the
// client knows by then.
func crashedRegistrant(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, store := range testserver.Stores() {
		all.Go(func() {
			t.Run(string(store), func(t *testing.T) {
				srv := servers.Shared(t, testserver.Spec{Store: store})
				root := testserver.UniqueName(t)
				params := url.Values{dialTimeout[store]: {"1s"}}
				p := testserver.NewProxy(t, srv.Addrs()[0])
				s := ok[*kv.Store](t)(openURL(t, drivers, storeURL(p.Addr(), store, root, testserver.Credentials{}, params)))
				other := ok[*kv.Store](t)(openURL(t, drivers, storeURL(srv.Addrs()[0], store, root, testserver.Credentials{}, nil)))
				ctx, cancel := context.WithTimeout(t.Context(), 3*within)
				defer cancel()
				w := ok[*kv.Watch[[]byte]](t)(other.Watch(ctx, ""))
				defer w.Close()
				reg := ok[*kv.Registration[[]byte]](t)(s.Register(ctx, "k", []byte("v"), time.Second))
				if ev := ok[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Kind != kv.Created {
					t.Fatal(ev.Kind)
				}
				c := s.Capabilities()
				cut, stalls := time.Now(), pace.Watch(t)
				p.Refuse(true)
				p.Cut()
				if ev := ok[kv.Event[[]byte]](t)(w.Next(ctx)); ev.Kind != kv.Deleted {
					t.Errorf("%v", ev.Kind)
				}
				// The lease may have been renewed as late as just before the cut, and a third of it before.
				took := time.Since(cut)
				t.Logf("gone after %v, of a lease of %v", took, c.MinLease)
				if took > c.MinLease+c.TTLSlack+2*time.Second+stalls.Since(cut) {
					t.Errorf("gone after %v, of a lease of %v", took, c.MinLease)
				}
				select {
				case <-reg.Done():
				case <-time.After(2*time.Second + stalls.Since(cut)):
					t.Error("the key is gone, and its registrant does not know")
				}
				if err := reg.Err(); !errors.Is(err, kv.ErrLeaseLost) {
					t.Errorf("the registration ended with %v", err)
				}
			})
		})
	}
}

// TestMirrors follows two clients that write at once, through a lost connection where there is one: it ends as the store
// is, and so does a client's read of its own write.
func TestMirrors(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		first := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		src := kv.NewTyped(first, codec.JSON[int](), "mirrored")
		ok[kv.Entry[int]](t)(src.Put(ctx, "before", 1))
		ok[kv.Entry[[]byte]](t)(first.Put(ctx, "mirrored-not", []byte("x")))
		m := ok[*watch.Mirror[int]](t)(watch.NewMirror(ctx, src))
		defer m.Close()
		if e, there := m.Get("before"); !there || e.Value != 1 {
			t.Errorf("the mirror begins with %+v, %v", e, there)
		}
		sub := m.Subscribe()
		defer sub.Close()
		value := ok[*watch.Value[int]](t)(watch.NewValue(ctx, src, "w0/1", -1))
		defer value.Close()
		if v := value.Load(); v != -1 {
			t.Errorf("the value of an absent key is %d", v)
		}
		followed := map[string]kv.Entry[int]{} // by a handler, change by change
		var mu sync.Mutex
		stop := m.OnChange(func(c watch.Change[int]) {
			mu.Lock()
			defer mu.Unlock()
			if followed[c.Key] != c.Old {
				t.Errorf("%q was %+v, and is told to have been %+v", c.Key, followed[c.Key], c.Old)
			}
			if followed[c.Key] = c.New; c.New.Revision == 0 {
				delete(followed, c.Key)
			}
		})
		defer stop()

		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		var wg sync.WaitGroup
		for i := range 2 {
			mine := kv.NewTyped(open(t), codec.JSON[int](), "mirrored")
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for n := range 60 {
					key := fmt.Sprintf("w%d/%d", i, rng.IntN(6))
					var err error
					if rng.IntN(4) == 0 {
						if err = mine.Delete(ctx, key); errors.Is(err, kv.ErrNotFound) {
							err = nil
						}
					} else {
						_, err = mine.Put(ctx, key, n)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(m.Sync(ctx), value.Sync(ctx)); err != nil {
			t.Fatal(err)
		}
		want := ok[[]kv.Entry[int]](t)(kv.Collect(src.List(ctx, "")))
		if got := slices.Collect(m.All()); !slices.Equal(got, want) {
			t.Errorf("the mirror has\n%v, the store\n%v", got, want)
		}
		below := ok[[]kv.Entry[int]](t)(kv.Collect(src.List(ctx, "w1")))
		if got := slices.Collect(m.Below("w1")); !slices.Equal(got, below) {
			t.Errorf("below w1 the mirror has %v, the store %v", got, below)
		}
		wantValue := -1
		if e, err := src.Get(ctx, "w0/1"); err == nil {
			wantValue = e.Value
		}
		if v := value.Load(); v != wantValue {
			t.Errorf("the value is %d, want %d", v, wantValue)
		}
		// A client reads its own write.
		e := ok[kv.Entry[int]](t)(src.Put(ctx, "mine", 7))
		if err := m.Wait(ctx, e.Revision); err != nil {
			t.Fatal(err)
		}
		if got, there := m.Get("mine"); !there || got.Revision != e.Revision || got.Value != 7 {
			t.Errorf("the mirror has %+v, %v; written %+v", got, there, e)
		}
		// The subscriber has all of it.
		local := map[string]kv.Entry[int]{}
		for local["mine"].Revision != e.Revision {
			ev := ok[kv.Event[int]](t)(sub.Next(ctx))
			switch ev.Kind {
			case kv.Deleted:
				delete(local, ev.Key)
			case kv.Existing, kv.Created, kv.Updated:
				local[ev.Key] = ev.Entry
			}
		}
		if err := m.Close(); err != nil { // waits for the handler
			t.Error(err)
		}
		want = append(want, kv.Entry[int]{})
		mu.Lock()
		defer mu.Unlock()
		if len(local) != len(want) || len(followed) != len(want) {
			t.Errorf("the subscriber has %d entries, the handler %d, the store %d", len(local), len(followed), len(want))
		}
		if m.Err() != nil {
			t.Error(m.Err())
		}
	})
}
