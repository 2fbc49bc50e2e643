package main

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/examples/config/follow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfig(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v after:\n%s", err, out.String())
	}
	if got := out.String(); got != follow.Expected {
		t.Errorf("got:\n%s\nwant:\n%s", got, follow.Expected)
	}
}
