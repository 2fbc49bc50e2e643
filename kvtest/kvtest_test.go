package kvtest_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(t testing.TB, s *kv.Store, key, value string, opts ...kv.WriteOption) kv.Entry[[]byte] {
	t.Helper()
	e, err := s.Put(t.Context(), key, []byte(value), opts...)
	if err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
	return e
}

// The test forgets a watch and a registration, and nothing is left of them:
// goleak looks when the package's tests are over.
func TestNewClosesWithTheTest(t *testing.T) {
	var s *kv.Store
	t.Run("forgetful", func(t *testing.T) {
		s = kvtest.New(t, kv.Prefix("app"))
		if _, err := s.Watch(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Register(t.Context(), "me", nil, time.Minute); err != nil {
			t.Fatal(err)
		}
		if full, err := s.Key("me"); err != nil || full != "app/me" {
			t.Errorf("Key: %q, %v; the prefix option did not arrive", full, err)
		}
	})
	if _, err := s.Get(t.Context(), "me"); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Get after the test: %v; want ErrClosed", err)
	}
}

// An hour's TTL, tested in no time.
func TestTTLWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvtest.New(t)
		w, err := s.Watch(t.Context(), "sessions")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		put(t, s, "sessions/alice", "token", kv.TTL(time.Hour))

		time.Sleep(time.Hour - time.Second)
		if ok, err := s.Exists(t.Context(), "sessions/alice"); err != nil || !ok {
			t.Errorf("a second before its time: %v, %v", ok, err)
		}
		for _, want := range []kv.Kind{kv.Created, kv.Deleted} {
			if ev, err := w.Next(t.Context()); err != nil || ev.Kind != want || ev.Key != "sessions/alice" {
				t.Fatalf("got %v %s, %v; want %v", ev.Kind, ev.Key, err, want)
			}
		}
		if d := time.Since(start); d < time.Hour || d > time.Hour+s.Capabilities().TTLSlack {
			t.Errorf("expired after %v", d)
		}
		if _, err := s.Get(t.Context(), "sessions/alice"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("Get after the hour: %v", err)
		}
	})
}

// A registration whose renewals fail is lost when its TTL is over.
func TestRegistrationLostToFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var faults kvtest.Faults
		s := kvtest.New(t, kv.Intercept(faults.Intercept))
		instances := kv.NewTyped(s, codec.String(), "instances")
		reg, err := instances.Register(t.Context(), "a", "10.0.0.1:80", 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if ok, err := instances.Exists(t.Context(), "a"); err != nil || !ok {
			t.Fatalf("after a minute of renewals: %v, %v", ok, err)
		}
		for range 100 {
			faults.FailNext(kv.OpRenew)
		}
		<-reg.Done()
		if err := reg.Err(); !errors.Is(err, kv.ErrLeaseLost) {
			t.Errorf("Err: %v; want ErrLeaseLost", err)
		}
		time.Sleep(s.Capabilities().TTLSlack + time.Second)
		if ok, err := instances.Exists(t.Context(), "a"); err != nil || ok {
			t.Errorf("the lost key is there still: %v, %v", ok, err)
		}
	})
}
