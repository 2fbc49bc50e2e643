package story_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/examples/story"
	"github.com/polykv/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write testdata/story.txt anew")

func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvtest.New(t)
		var out bytes.Buffer
		if err := story.Tell(t.Context(), &out, s); err != nil {
			t.Fatalf("%v after:\n%s", err, out.String())
		}
		got := story.MaskRevisions(out.String())
		if *update {
			if err := os.WriteFile("testdata/story.txt", []byte(got), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if got != story.Expected {
			t.Errorf("got:\n%s\nwant:\n%s", got, story.Expected)
		}
		left, err := kv.Collect(s.List(t.Context(), "", kv.KeysOnly()))
		if len(left) != 0 || err != nil {
			t.Errorf("the story left %v, %v", left, err)
		}
	})
}

// A story that is interrupted ends, and cleans up.
func TestTellInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kvtest.New(t)
		ctx, cancel := context.WithCancel(t.Context())
		w, err := s.Watch(t.Context(), "", kv.KeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		go func() {
			if _, err := w.Next(t.Context()); err == nil {
				cancel() // at the first key
			}
		}()
		if err := story.Tell(ctx, new(bytes.Buffer), s); err == nil {
			t.Error("an interrupted story gave no error")
		}
		left, err := kv.Collect(s.List(t.Context(), "", kv.KeysOnly()))
		if len(left) != 0 || err != nil {
			t.Errorf("the story left %v, %v", left, err)
		}
	})
}
