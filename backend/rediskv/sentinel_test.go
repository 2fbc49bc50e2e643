package rediskv_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestSentinelThatWasAway: a sentinel that was cut off from the others names who was the primary, whatever they have agreed
// on since. Whoever believes it, because it answers first, writes what will be lost.
func TestSentinelThatWasAway(t *testing.T) {
	r := startReplicated(t)
	former := testserver.Start(t, testserver.Spec{Store: testserver.Redis})
	host, port, err := net.SplitHostPort(former.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	behind := startSentinel(t, host+" "+port) // has seen no election
	s := r.open(t)
	before := put(t, s, "k", "1", backend.PutOptions{})
	inStep(t, r)
	if err := r.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	after := writeAtNewPrimary(t, s, before)
	for range 20 {
		s, err := open(t, fmt.Sprintf("redis+sentinel://%s,%s/app?master=m", behind, r.sentinel), rediskv.Driver{})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := s.Get(t.Context(), "k", backend.GetOptions{}); err != nil || e.Revision != after.Revision {
			t.Fatalf("asked of two: %+v, %v, want revision %d", e, err, after.Revision)
		}
		// What sentinels tell unasked closes the connections to who is no primary.
		w := watching(t, s, "", backend.WatchOptions{})
		after = put(t, s, "k", "2", backend.PutOptions{})
		if ev := next(t, w); ev.Revision != after.Revision {
			t.Errorf("event %+v", ev)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}

	// One that is alone is believed, as long as nobody knows better.
	alone, err := open(t, fmt.Sprintf("redis+sentinel://%s,%s,%s/app?master=m", unusedAddr(t), unusedAddr(t), r.sentinel), rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := alone.Get(t.Context(), "k", backend.GetOptions{}); err != nil || e.Revision != after.Revision {
		t.Errorf("asked of one that is left: %+v, %v, want revision %d", e, err, after.Revision)
	}
	client := redis.NewClient(&redis.Options{Addr: former.Addrs()[0]})
	defer client.Close()
	if n, err := client.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Errorf("the former primary has %d keys, %v", n, err)
	}
}
