package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polykv/kv/examples/leader/vote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLeader(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if err := run(ctx, &out); err != nil {
		t.Fatalf("%v after:\n%s", err, out.String())
	}
	if got := vote.Mask(out.String()); got != vote.Expected {
		t.Errorf("got:\n%s\nwant:\n%s", got, vote.Expected)
	}
}

// An election that is interrupted ends.
func TestLeaderInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := run(ctx, new(bytes.Buffer)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an interrupted election: %v", err)
	}
}
