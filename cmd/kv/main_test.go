package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/kvtest"
)

// TestMain makes the test binary the command that kv lock runs, if the
// environment asks for it.
func TestMain(m *testing.M) {
	asChild()
	goleak.VerifyTestMain(m)
}

// memDriver opens clients of one set of keys in memory, as processes would
// open a store.
type memDriver struct{ s *memkv.Store }

func (memDriver) Schemes() []string { return []string{"mem"} }

func (d memDriver) Open(context.Context, backend.URL) (backend.Store, error) { return d.s.Peer(), nil }

// shell runs commands on one store, whose URL is url.
type shell struct {
	t       *testing.T
	drivers func(*tls.Config) kv.Drivers
	url     string
}

func memory(t *testing.T) shell {
	s := memkv.New(memkv.Options{})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return shell{t, func(*tls.Config) kv.Drivers { return kv.Drivers{memDriver{s}} }, "mem://"}
}

func (sh shell) env(name string) string { return map[string]string{"KV_URL": sh.url}[name] }

// run runs a command line with stdin; ctx interrupts it.
func (sh shell) run(ctx context.Context, stdin string, args ...string) (stdout, stderr string, code int) {
	var out, err bytes.Buffer
	a := app{
		drivers: sh.drivers,
		env:     sh.env,
		stdin:   strings.NewReader(stdin),
		stdout:  &out,
		stderr:  &err,
	}
	code = a.run(ctx, args)
	return out.String(), err.String(), code
}

// want runs a command line, its words between spaces, and expects its output
// and status.
func (sh shell) want(code int, stdout, line string) {
	sh.t.Helper()
	out, stderr, got := sh.run(sh.t.Context(), "", strings.Fields(line)...)
	if out != stdout || got != code {
		sh.t.Errorf("kv %s: status %d, output %q, errors %q; want status %d, output %q", line, got, out, stderr, code, stdout)
	}
	if (stderr == "") != (code == exitOK) {
		sh.t.Errorf("kv %s: status %d and errors %q", line, got, stderr)
	}
	if n := strings.Count(stderr, "\n"); n > 1 {
		sh.t.Errorf("kv %s: %d lines of errors", line, n)
	}
}

// ok runs a command line that succeeds, and returns its output.
func (sh shell) ok(line string) string {
	sh.t.Helper()
	out, stderr, code := sh.run(sh.t.Context(), "", strings.Fields(line)...)
	if code != exitOK {
		sh.t.Fatalf("kv %s: status %d: %s", line, code, stderr)
	}
	return strings.TrimSpace(out)
}

// each runs a test on every store that needs no server.
func each(t *testing.T, f func(shell)) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { f(open(t)) })
	}
}

func TestReadAndWrite(t *testing.T) {
	each(t, func(sh shell) {
		sh.want(exitNotFound, "", "get a/b")
		rev := sh.ok("put a/b one")
		sh.want(exitOK, "one", "get a/b")
		sh.want(exitOK, "one", "-prefix a get /b/")
		sh.want(exitConflict, "", "create a/b two")
		sh.ok("put -rev " + rev + " a/b two")
		sh.want(exitConflict, "", "put -rev "+rev+" a/b three")
		sh.want(exitConflict, "", "delete -rev "+rev+" a/b")
		sh.want(exitUsage, "", "put -rev 0 a/b three")
		sh.want(exitUsage, "", "delete -rev 0 a/b")
		sh.want(exitOK, "two", "get a/b")
		sh.want(exitOK, "", "delete a/b")
		sh.want(exitNotFound, "", "delete a/b")
		sh.ok("create a/b one")
		sh.ok("create a/c one")
		sh.want(exitOK, "2\n", "delete -r a")
		sh.want(exitUsage, "", "delete -r -rev 1 a")
		sh.want(exitUsage, "", "put -ttl 0s a x")
		sh.want(exitUsage, "", "put -ttl 10ms a x")
	})
}

// Any bytes go in and come out as they are.
func TestValuesAreVerbatim(t *testing.T) {
	each(t, func(sh shell) {
		for _, value := range []string{"", "no newline", "newline\n", "\x00\xff\n\n"} {
			if _, stderr, code := sh.run(t.Context(), value, "put", "v"); code != exitOK {
				t.Fatalf("put %q: %s", value, stderr)
			}
			sh.want(exitOK, value, "get v")
		}
		sh.ok("put v \xff")
		if got := sh.ok("get -json v"); !strings.Contains(got, `"base64":"/w=="`) {
			t.Errorf("get -json: %s", got)
		}
	})
}

func TestList(t *testing.T) {
	each(t, func(sh shell) {
		sh.want(exitOK, "", "ls")
		for _, key := range []string{"b/x/1", "b/x", "a", "bb"} {
			sh.ok("put " + key + " v")
		}
		sh.ok("put -ttl 1h t v")
		sh.want(exitOK, "a\nb/\nbb\nt\n", "ls")
		sh.want(exitOK, "x\nx/\n", "-prefix b ls")
		sh.want(exitOK, "b/x\nb/x/1\n", "ls -r b")
		sh.want(exitOK, "a\x00b/x\x00b/x/1\x00bb\x00t\x00", "ls -r -0")
		out := sh.ok("ls -l")
		if len(strings.Split(out, "\n")) != 4 || !strings.Contains(out, "Z  t") {
			t.Errorf("ls -l: %s", out)
		}
		for line := range strings.Lines(out) { // a directory has no revision
			if f := strings.Fields(line); (f[0] == "-") != strings.HasSuffix(f[2], "/") || f[0] == "0" {
				t.Errorf("ls -l: %s", line)
			}
		}
		if out := sh.ok("ls -json"); !strings.HasPrefix(out, `{"key":"a","value":"v","revision":`) {
			t.Errorf("ls -json: %s", out)
		}
		if _, _, code := sh.run(t.Context(), "v", "put", "odd/new\nline"); code != exitOK {
			t.Error("put of a key with a newline")
		}
		sh.want(exitOK, "\"odd/new\\nline\"\n", "ls odd")
		sh.want(exitOK, "odd/new\nline\x00", "ls -0 odd")
	})
}

func TestUsage(t *testing.T) {
	sh := memory(t)
	for _, line := range []string{
		"", "bogus", "-bogus", "get", "get a b", "put", "get -bogus a", "put -ttl soon a b", "put -rev -1 a b", "-timeout x get a",
		"-url bogus://host get a", "-url no-url get a", "help bogus", "help get put",
		"ls -l -0", "ls -l -json", "ls -0 -json",
	} {
		sh.want(exitUsage, "", line)
	}
	none := shell{t: t, drivers: sh.drivers}
	none.want(exitUsage, "", "get a")
	for _, line := range []string{"help", "-h", "get -h", "help get"} {
		if out := sh.ok(line); !strings.Contains(out, "get [-json] KEY") {
			t.Errorf("kv %s: %s", line, out)
		}
	}
	for _, c := range commands { // of one command only
		if out, want := sh.ok("help "+c.name), sh.ok(c.name+" -h"); out != want {
			t.Errorf("kv help %s: %s", c.name, out)
		}
	}
	for _, line := range []string{
		"-url bogus://me:secret@host/ get a", "bogus://me:secret@host/ get a", "help bogus://me:secret@host/",
		"-url me:secret@bogus://host/ get a",
	} {
		if _, stderr, code := sh.run(t.Context(), "", strings.Fields(line)...); code != exitUsage || strings.Contains(stderr, "secret") {
			t.Errorf("kv %s: status %d; the password is shown: %s", line, code, stderr)
		}
	}
}

func TestStatusOfFaults(t *testing.T) {
	for err, code := range map[error]int{
		kv.ErrUncertain: exitUncertain, kv.ErrUnavailable: exitUnavailable, kv.ErrPermission: exitPermission,
		kv.ErrTooLarge: exitUsage, kv.ErrInvalidKey: exitUsage, kv.ErrCorrupt: exitOther,
		fmt.Errorf("%w: %w", kv.ErrUncertain, context.Canceled): exitUncertain,
	} {
		var faults kvtest.Faults
		s := kvtest.New(t, kv.Intercept(faults.Intercept))
		faults.FailNext(kv.OpPut, err)
		_, got := s.Put(t.Context(), "a", nil)
		if status(got) != code {
			t.Errorf("status %d for %v; want %d", status(got), got, code)
		}
	}
}

func TestInfo(t *testing.T) {
	each(t, func(sh shell) {
		out := sh.ok("info")
		if !strings.Contains(out, "Lossless") || !strings.Contains(out, "MaxKeyBytes") {
			t.Errorf("info: %s", out)
		}
	})
}
