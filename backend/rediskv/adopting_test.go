package rediskv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// TestAdoptionOutlivesCalls: calls whose time does not suffice to look for the keys of other programs in a large database
// get there all the same, together.
func TestAdoptionOutlivesCalls(t *testing.T) {
	srv := testserver.Start(t, testserver.Spec{Store: testserver.Redis, Config: []string{"notify-keyspace-events KA"}})
	client := newClient(t, srv)
	pipe := client.Pipeline()
	for i := range 10_000 {
		pipe.Set(t.Context(), fmt.Sprintf("other/%d", i), "v", 0)
	}
	pipe.Set(t.Context(), "root/k", "v", 0)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	const slow = 20 * time.Millisecond // what a reply to SCAN takes
	client.AddHook(hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if cmd.Name() == "scan" {
			timer := time.NewTimer(slow)
			defer timer.Stop()
			<-timer.C
		}
		return next(ctx, cmd)
	}))
	s := newStore(t, client, rediskv.Options{Root: "root"})
	eventually(t, "first contact", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*slow)
		defer cancel()
		_, err := s.Get(ctx, "k", backend.GetOptions{})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	})
	eventually(t, "a list", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*slow)
		defer cancel()
		n := 0
		for _, err := range s.List(ctx, "", backend.ListOptions{}) {
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			if err == nil {
				n++
			}
		}
		return n == 1
	})
}
