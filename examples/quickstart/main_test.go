package main

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv/examples/story"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatalf("%v after:\n%s", err, out.String())
	}
	if got := story.MaskRevisions(out.String()); got != story.Expected {
		t.Errorf("got:\n%s\nwant:\n%s", got, story.Expected)
	}
}
