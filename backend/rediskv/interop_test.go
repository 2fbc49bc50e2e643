package rediskv_test

import (
	"bytes"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// cli is redis-cli.
type cli struct {
	t    *testing.T
	args []string
}

func newCLI(t *testing.T, srv *testserver.Server) cli {
	host, port, err := net.SplitHostPort(srv.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("redis-cli"); err != nil {
		t.Fatal("redis-cli comes with the package of the server: ", err)
	}
	return cli{t, []string{"-h", host, "-p", port}}
}

// run runs one command and returns what redis-cli prints, without the line feed that it adds.
func (c cli) run(args ...string) string { return c.with(nil, args...) }

// with takes the last argument from stdin, byte for byte, unless it is nil.
func (c cli) with(stdin []byte, args ...string) string {
	c.t.Helper()
	all := c.args
	if stdin != nil {
		all = append(all[:len(all):len(all)], "-x")
	}
	cmd := exec.CommandContext(c.t.Context(), "redis-cli", append(all[:len(all):len(all)], args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("redis-cli %q: %v", args, err)
	}
	return string(bytes.TrimSuffix(out, []byte("\n")))
}

// binary is every byte, and what a line-minded program would trip over.
func binary() []byte {
	b := []byte("\r\n\x00\"'\\ \xff\xfe")
	for i := range 256 {
		b = append(b, byte(i))
	}
	return append(b, '\r', '\n', '\n')
}

// TestRedisCLI: what redis-cli writes the library reads, lists and reports, and what the library writes redis-cli shows,
// byte for byte.
func TestRedisCLI(t *testing.T) {
	t.Run("with notifications", func(t *testing.T) { interoperate(t, true) })
	t.Run("without", func(t *testing.T) { interoperate(t, false) })
}

func interoperate(t *testing.T, notified bool) {
	spec := testserver.Spec{Store: testserver.Redis}
	if notified {
		spec.Config = []string{"notify-keyspace-events KA"}
	}
	srv := servers.Shared(t, spec)
	ctx, shell, root := t.Context(), newCLI(t, srv), testserver.UniqueName(t)
	// A tree that another program has made before the library comes.
	shell.run("set", root+"/http/routers/web", "before")
	shell.with(binary(), "set", root+"/http/binary")

	s, err := open(t, "redis://"+srv.Addrs()[0]+"/"+root, rediskv.Driver{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(ctx, "http/routers/web", backend.GetOptions{}); err != nil || string(e.Value) != "before" || e.Revision == 0 {
		t.Errorf("Get = %+v, %v", e, err)
	}
	if e, err := s.Get(ctx, "http/binary", backend.GetOptions{}); err != nil || !bytes.Equal(e.Value, binary()) {
		t.Errorf("Get = %q, %v", e.Value, err)
	}
	if got := s.Capabilities().ForeignEvents; got != notified {
		t.Errorf("ForeignEvents = %v", got)
	}
	w, err := s.Watch(ctx, "http", backend.WatchOptions{Snapshot: true, Prev: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var there []string
	for {
		ev := next(t, w)
		if ev.Kind == backend.Synced {
			break
		}
		there = append(there, ev.Key)
	}
	if strings.Join(there, " ") != "http/binary http/routers/web" {
		t.Errorf("the snapshot has %q", there)
	}
	// seen makes the library look, where nobody tells it, and returns the event.
	seen := func() backend.Event {
		t.Helper()
		if !notified {
			if n, err := s.Adopt(ctx, ""); n != 1 || err != nil {
				t.Errorf("Adopt = %d, %v", n, err)
			}
		}
		return next(t, w)
	}
	list := func() string {
		t.Helper()
		var b strings.Builder
		for e, err := range s.List(ctx, "http", backend.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString(e.Key + "=" + string(e.Value) + ";")
		}
		return b.String()
	}
	shell.run("del", root+"/http/binary")
	if ev := seen(); ev.Kind != backend.Deleted || ev.Key != "http/binary" || ev.Prev == nil || !bytes.Equal(ev.Prev.Value, binary()) {
		t.Errorf("DEL: %+v", ev)
	}
	shell.run("set", root+"/http/routers/web", "after")
	if ev := seen(); ev.Kind != backend.Updated || string(ev.Value) != "after" || string(ev.Prev.Value) != "before" {
		t.Errorf("SET: %+v", ev)
	}
	shell.run("set", root+"/http/new", "")
	if ev := seen(); ev.Kind != backend.Created || ev.Key != "http/new" || len(ev.Value) != 0 {
		t.Errorf("SET of a new key: %+v", ev)
	}
	if got := list(); got != "http/new=;http/routers/web=after;" {
		t.Errorf("List has %q", got)
	}
	shell.run("pexpire", root+"/http/new", "4000")
	if ev := seen(); ev.Kind != backend.Updated || time.Until(ev.Expires) > 4*time.Second || time.Until(ev.Expires) < 0 {
		t.Errorf("PEXPIRE: %+v", ev)
	}
	if ev := next(t, w); ev.Kind != backend.Deleted || ev.Key != "http/new" { // that it has expired is the library's to notice
		t.Errorf("expiry: %+v", ev)
	}
	if _, err := s.Get(ctx, "http/new", backend.GetOptions{}); err == nil {
		t.Error("an expired key is there")
	}
	if got := list(); got != "http/routers/web=after;" {
		t.Errorf("List has %q", got)
	}

	// The other direction.
	if _, err := s.Put(ctx, "ours/binary", binary(), backend.PutOptions{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := shell.run("get", root+"/ours/binary"); got != string(binary()) {
		t.Errorf("redis-cli shows %q", got)
	}
	if got := shell.run("type", root+"/ours/binary"); got != "string" {
		t.Errorf("it is a %s", got)
	}
	if got := shell.run("ttl", root+"/ours/binary"); got != "3600" && got != "3599" {
		t.Errorf("redis-cli sees a TTL of %s s", got)
	}
	put(t, s, "ours/binary", "", backend.PutOptions{})
	if got := shell.run("ttl", root+"/ours/binary"); got != "-1" {
		t.Errorf("redis-cli sees a TTL of %s s after a put without", got)
	}
	if got := shell.run("strlen", root+"/ours/binary"); got != "0" {
		t.Errorf("an empty value has %s bytes", got)
	}
	if err := s.Delete(ctx, "ours/binary", backend.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := shell.run("exists", root+"/ours/binary"); got != "0" {
		t.Errorf("a deleted key is there for redis-cli")
	}
}
