package rediskv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/polykv/kv/backend"
)

func TestHashTag(t *testing.T) {
	for name, want := range map[string]string{
		"plain": "", "{a}/k": "a", "x{a}y{b}": "a", "{}{a}": "", "{a": "", "a}": "", "{{a}}": "{a", "foo{bar": "",
	} {
		if got := hashTag(name); got != want {
			t.Errorf("hashTag(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestGlobEscape(t *testing.T) {
	for s, want := range map[string]string{"plain/": "plain/", "a*b": `a\*b`, `[x-y]?\`: `\[x\-y\]\?\\`, "^": `\^`} {
		if got := globEscape(s); got != want {
			t.Errorf("globEscape(%q) = %q, want %q", s, got, want)
		}
	}
}

// TestAbandoned: a request that was given up before it was written is never sent.
func TestAbandoned(t *testing.T) {
	w := &wire{text: "x"}
	if !w.abandon() || w.sent() {
		t.Error("a request that waits cannot be abandoned")
	}
	if _, err := w.MarshalBinary(); err == nil {
		t.Error("an abandoned request is sent")
	}
	w = &wire{text: "x"}
	if b, err := w.MarshalBinary(); string(b) != "x" || err != nil {
		t.Errorf("MarshalBinary = %q, %v", b, err)
	}
	if w.abandon() || !w.sent() {
		t.Error("a request that was written is said to be abandoned")
	}
}

// TestNoRetries: go-redis asks each command, and copies of it.
func TestNoRetries(t *testing.T) {
	c := newCommand(context.Background(), []any{"get", "k"})
	if !c.NoRetry() || !c.Clone().NoRetry() {
		t.Error("go-redis may repeat a command")
	}
}

type codedError string

func (e codedError) Error() string { return string(e) }
func (codedError) RedisError()     {}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		err         error
		sent        bool
		read, write error
	}{
		{codedError("NOPERM this user has no permissions"), true, backend.ErrPermission, backend.ErrPermission},
		{codedError("OOM command not allowed"), true, backend.ErrUnavailable, backend.ErrUnavailable},
		{codedError("BUSY Redis is busy"), true, backend.ErrUnavailable, backend.ErrUnavailable},
		{codedError("READONLY You can't write"), true, backend.ErrUnavailable, backend.ErrUnavailable},
		{codedError("ERR something else"), true, backend.ErrUnavailable, backend.ErrUncertain},
		{errors.New("EOF"), true, backend.ErrUnavailable, backend.ErrUncertain},
		{errors.New("connection refused"), false, backend.ErrUnavailable, backend.ErrUnavailable},
		{redis.ErrClosed, false, backend.ErrClosed, backend.ErrClosed},
		{backend.ErrClosed, true, backend.ErrClosed, backend.ErrUncertain},
	} {
		if err := readError(ctx, c.err); !errors.Is(err, c.read) || !errors.Is(err, c.err) {
			t.Errorf("reading, %v is %v, want %v", c.err, err, c.read)
		}
		if err := writeError(ctx, c.sent, c.err); !errors.Is(err, c.write) || !errors.Is(err, c.err) {
			t.Errorf("writing, %v is %v, want %v", c.err, err, c.write)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	cause := errors.New("cause")
	cancel(cause)
	err := writeError(ctx, true, context.Canceled)
	for _, want := range []error{backend.ErrUncertain, context.Canceled, cause} {
		if !errors.Is(err, want) {
			t.Errorf("a cancelled write is %v, want %v", err, want)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("1795459333849230-0 1795459333849230 0 256 0123456789abcdef")
	f.Add("1-63 1 1795459333849 0 0123456789abcdef LEASE")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRecord(s)
		if err != nil {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		if !strings.Contains(s, r.digest) || r.entry("k").Revision != backend.Revision(r.id.rev) {
			t.Fatalf("%q reads as %+v", s, r)
		}
	})
}

func FuzzChange(f *testing.F) {
	f.Add("2-0", "k", "v", "u 1-0 1-0 1 0 0 200")
	f.Add("2-0", "k", "", "d 1-0 1-0 1 0 5 200")
	f.Fuzz(func(t *testing.T, place, key, value, meta string) {
		c, err := parseChange(place, key, value, meta)
		if err != nil {
			if !errors.Is(err, backend.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		if c.kind == backend.Deleted && c.entry.Value != nil || c.entry.Key != key {
			t.Fatalf("%q reads as %+v", meta, c)
		}
	})
}

func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]int64{time.Second: 1000, time.Second + 1: 1001, 1500*time.Millisecond - 1: 1500} {
		if got := milliseconds(d); got != want {
			t.Errorf("milliseconds(%v) = %d, want %d", d, got, want)
		}
	}
}
