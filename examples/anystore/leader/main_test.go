package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/examples/leader/vote"
	"github.com/polykv/kv/internal/testserver"
)

var servers testserver.Pool

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-stand" {
		main() // a candidate of the test below
		return
	}
	goleak.VerifyTestMain(servers.M(m))
}

// One election, in the same words on every store, with processes that are killed and paused. The lease is renewed in time on a machine
// that stands still for two seconds.
func TestLeader(t *testing.T) {
	params := map[testserver.Store]string{testserver.ZooKeeper: "?session=4s"}
	for _, store := range testserver.Stores() {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			url := servers.Shared(t, testserver.Spec{Store: store}).URL() + "/" + testserver.UniqueName(t) + params[store]
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var out bytes.Buffer
			if err := run(ctx, &out, url, 4*time.Second); err != nil {
				t.Fatalf("%v after:\n%s", err, out.String())
			}
			t.Log("\n" + out.String())
			if got := vote.Mask(out.String()); got != vote.Expected {
				t.Errorf("got:\n%s\nwant:\n%s", got, vote.Expected)
			}
		})
	}
}

// A store whose locks end at the process is refused before anything is started.
func TestLeaderBolt(t *testing.T) {
	err := run(t.Context(), new(bytes.Buffer), "bolt://"+t.TempDir()+"/kv.db", time.Second)
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an election of processes on a file: %v", err)
	}
}
