package integration

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/polykv/kv/internal/testserver"
)

// etcdctl runs etcdctl, once a call.
type etcdctl struct{ argv []string }

func newEtcdctl(t *testing.T, srv *testserver.Server) tool {
	return etcdctl{append(testserver.Tool(t, testserver.Etcd), "--endpoints="+srv.Addrs()[0])}
}

func (e etcdctl) run(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	out, err := run(t, nil, stdin, append(e.argv[:len(e.argv):len(e.argv)], args...)...)
	if err != nil {
		t.Fatalf("etcdctl %.200q: %v", args, err)
	}
	return out
}

// The value comes on standard input, which takes any bytes; an empty one has to be an argument.
func (e etcdctl) put(t testing.TB, name string, value []byte) {
	t.Helper()
	if len(value) == 0 {
		e.run(t, nil, "put", "--", name, "")
		return
	}
	e.run(t, value, "put", "--", name)
}

func (e etcdctl) get(t testing.TB, name string) ([]byte, bool) {
	t.Helper()
	out := e.run(t, nil, "get", "--print-value-only", "--", name)
	return bytes.CutSuffix(out, []byte("\n")) // nothing at all for no key
}

func (e etcdctl) del(t testing.TB, name string) {
	t.Helper()
	e.run(t, nil, "del", "--", name)
}

func (e etcdctl) delAll(t testing.TB, root string) {
	t.Helper()
	e.run(t, nil, "del", "--", root)
	e.run(t, nil, "del", "--prefix", "--", root+"/")
}

func (e etcdctl) list(t testing.TB, root string) (names []string) {
	t.Helper()
	var answer struct {
		KVs []struct{ Key []byte }
	}
	if err := json.Unmarshal(e.run(t, nil, "get", "--prefix", "--keys-only", "-w", "json", "--", root+"/"), &answer); err != nil {
		t.Fatal(err)
	}
	for _, kv := range answer.KVs {
		names = append(names, string(kv.Key))
	}
	return names
}

// consulCLI runs consul kv, once a call.
type consulCLI struct {
	argv []string
	env  []string
}

func newConsulCLI(t *testing.T, srv *testserver.Server) tool {
	return consulCLI{append(testserver.Tool(t, testserver.Consul), "kv"), []string{"CONSUL_HTTP_ADDR=" + srv.Addrs()[0]}}
}

func (c consulCLI) run(t testing.TB, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	return run(t, c.env, stdin, append(c.argv[:len(c.argv):len(c.argv)], args...)...)
}

func (c consulCLI) must(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	out, err := c.run(t, stdin, args...)
	if err != nil {
		t.Fatalf("consul kv %.200q: %v", args, err)
	}
	return out
}

func (c consulCLI) put(t testing.TB, name string, value []byte) {
	t.Helper()
	if len(value) == 0 {
		c.must(t, nil, "put", name)
		return
	}
	c.must(t, value, "put", name, "-")
}

func (c consulCLI) get(t testing.TB, name string) ([]byte, bool) {
	t.Helper()
	out, err := c.run(t, nil, "get", name)
	if err != nil {
		return nil, false
	}
	return bytes.CutSuffix(out, []byte("\n"))
}

func (c consulCLI) del(t testing.TB, name string) {
	t.Helper()
	c.must(t, nil, "delete", name)
}

func (c consulCLI) delAll(t testing.TB, root string) {
	t.Helper()
	c.del(t, root)
	c.must(t, nil, "delete", "-recurse", root+"/")
}

// list exports, which has every value too, and compares those with what get says of the first.
func (c consulCLI) list(t testing.TB, root string) (names []string) {
	t.Helper()
	var pairs []struct{ Key, Value string }
	if err := json.Unmarshal(c.must(t, nil, "export", root+"/"), &pairs); err != nil {
		t.Fatal(err)
	}
	for i, p := range pairs {
		names = append(names, p.Key)
		if i > 0 {
			continue
		}
		value, err := base64.StdEncoding.DecodeString(p.Value)
		if got, found := c.get(t, p.Key); err != nil || !found || !bytes.Equal(got, value) {
			t.Errorf("consul kv export has %.80q for %q, and consul kv get %.80q", value, p.Key, got)
		}
	}
	return names
}

// zkCli is one process, since each start is that of a Java machine. A command's output ends where that of the next one
// begins, which prints the value of a node that is there for nothing else.
type zkCli struct {
	in   io.Writer
	out  *bufio.Reader
	mark string
}

func newZkCli(t *testing.T, srv *testserver.Server) tool {
	argv := append(testserver.Tool(t, testserver.ZooKeeper), "-server", srv.Addrs()[0])
	cmd := exec.Command(argv[0], argv[1:]...) // ends with its input
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	z := &zkCli{in, bufio.NewReaderSize(out, 1<<20), "/" + testserver.UniqueName(t)}
	t.Cleanup(func() {
		fmt.Fprintf(in, "delete %s\n", z.mark)
		in.Close() // zkCli ends with its input
		io.Copy(io.Discard, out)
		cmd.Wait()
	})
	z.run(t, fmt.Sprintf("create %s %[1]s", z.mark))
	return z
}

func (z *zkCli) run(t testing.TB, command string) string {
	t.Helper()
	if _, err := fmt.Fprintf(z.in, "%s\nget %s\n", command, z.mark); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		line, err := z.out.ReadString('\n')
		if err != nil {
			t.Fatalf("zkCli %.200q: %v after %.200q", command, err, out.String())
		}
		if line == z.mark+"\n" {
			return out.String()
		}
		if strings.HasPrefix(line, "WATCHER::") || strings.HasPrefix(line, "WatchedEvent ") {
			continue // of its own session, at any time
		}
		out.WriteString(line)
	}
}

// quote makes one argument of s, which zkCli cannot if both quotes are in it.
func quote(t testing.TB, s string) string {
	t.Helper()
	if !strings.Contains(s, `"`) {
		return `"` + s + `"`
	}
	if !strings.Contains(s, `'`) {
		return "'" + s + "'"
	}
	t.Fatalf("zkCli has no way to write %q", s)
	return ""
}

// put makes parents as a person would, one by one, if set says that there is no node.
func (z *zkCli) put(t testing.TB, name string, value []byte) {
	t.Helper()
	if z.exists(t, name) {
		z.run(t, "set "+quote(t, name)+" "+quote(t, string(value)))
		return
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '/' && !z.exists(t, name[:i]) {
			z.run(t, "create "+quote(t, name[:i]))
		}
	}
	z.run(t, "create "+quote(t, name)+" "+quote(t, string(value)))
	if !z.exists(t, name) {
		t.Fatalf("zkCli did not create %q", name)
	}
}

// exists asks for the node's Stat, which a missing node does not have: the complaint goes to standard error.
func (z *zkCli) exists(t testing.TB, name string) bool {
	t.Helper()
	return strings.Contains(z.run(t, "stat "+quote(t, name)), "dataVersion = ")
}

// get takes a node without data, which zkCli shows as null, for the directory that it is.
func (z *zkCli) get(t testing.TB, name string) ([]byte, bool) {
	t.Helper()
	value, found := strings.CutSuffix(z.run(t, "get "+quote(t, name)), "\n")
	return []byte(value), found && value != "null"
}

func (z *zkCli) del(t testing.TB, name string) {
	t.Helper()
	z.run(t, "delete "+quote(t, name))
}

func (z *zkCli) delAll(t testing.TB, root string) {
	t.Helper()
	z.run(t, "deleteall "+quote(t, root))
}

func (z *zkCli) list(t testing.TB, root string) (names []string) {
	t.Helper()
	for name := range strings.Lines(z.run(t, "ls -R "+quote(t, root))) {
		if name = strings.TrimSuffix(name, "\n"); name != root {
			names = append(names, name)
		}
	}
	return names
}

// redisCLI runs redis-cli, once a call.
type redisCLI struct{ argv []string }

func newRedisCLI(t *testing.T, srv *testserver.Server) tool {
	host, port, err := net.SplitHostPort(srv.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	return redisCLI{append(testserver.Tool(t, testserver.Redis), "-h", host, "-p", port, "-e", "--raw")}
}

func (r redisCLI) run(t testing.TB, stdin []byte, args ...string) []byte {
	t.Helper()
	out, err := run(t, nil, stdin, append(r.argv[:len(r.argv):len(r.argv)], args...)...)
	if err != nil {
		t.Fatalf("redis-cli %.200q: %v", args, err)
	}
	return out
}

func (r redisCLI) put(t testing.TB, name string, value []byte) {
	t.Helper()
	r.run(t, value, "-x", "SET", name) // the last argument comes on standard input
}

func (r redisCLI) get(t testing.TB, name string) ([]byte, bool) {
	t.Helper()
	if strings.TrimSpace(string(r.run(t, nil, "EXISTS", name))) == "0" {
		return nil, false
	}
	return bytes.CutSuffix(r.run(t, nil, "GET", name), []byte("\n"))
}

func (r redisCLI) del(t testing.TB, name string) {
	t.Helper()
	r.run(t, nil, "DEL", name)
}

func (r redisCLI) delAll(t testing.TB, root string) {
	t.Helper()
	r.del(t, root)
	for _, name := range r.list(t, root) {
		r.del(t, name)
	}
}

func (r redisCLI) list(t testing.TB, root string) (names []string) {
	t.Helper()
	for name := range strings.Lines(string(r.run(t, nil, "--scan", "--pattern", root+"/*"))) {
		names = append(names, strings.TrimSuffix(name, "\n"))
	}
	return names
}
