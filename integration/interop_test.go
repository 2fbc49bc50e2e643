package integration

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/internal/testserver"
)

// A tool is a store's own command-line tool, which knows nothing of this library. Names are native.
type tool interface {
	put(t testing.TB, name string, value []byte)
	get(t testing.TB, name string) (value []byte, found bool)
	del(t testing.TB, name string)
	delAll(t testing.TB, root string)        // root, if it is there, and everything below it
	list(t testing.TB, root string) []string // all names below root, in any order
}

// An interop is a store, what its tool can do, and how its tool sees it.
type interop struct {
	store  testserver.Store
	tool   func(t *testing.T, srv *testserver.Server) tool
	native func(root string) string // the native name of what the URL calls root

	// binary says that the tool takes and shows any bytes, and not only text.
	binary bool
	// escaped has the native form of the keys that this store does not take as they are.
	escaped map[string]string
}

func interops() []interop {
	same := func(root string) string { return root }
	return []interop{
		{testserver.Etcd, newEtcdctl, same, true, nil},
		{testserver.Consul, newConsulCLI, same, true, map[string]string{
			"control\tcharacter": "control=u09-character",
			"dots/../up":         "dots/=u2E-./up",
			"dots/./here":        "dots/=u2E-/here",
			"percent/100%25":     "percent/100=u25-25",
		}},
		{testserver.ZooKeeper, newZkCli, func(root string) string { return "/" + root }, false, map[string]string{
			"control\tcharacter": "control=u09-character",
			"dots/../up":         "dots/=u2E-./up",
			"dots/./here":        "dots/=u2E-/here",
			"emoji/😀.json":       "emoji/=u1F600-.json",
		}},
	}
}

// name is the native name of a key.
func (i interop) name(root, key string) string {
	if esc, ok := i.escaped[key]; ok {
		key = esc
	}
	return i.native(root) + "/" + key
}

// interopKeys are ordinary keys and awkward ones. None is the parent of another: the parents that zkCli makes have values.
var interopKeys = []string{
	"a", "a-b", "a.b", "deep/er/and/deeper", "with space/in it", "émile/ça", "emoji/😀.json", "percent/100%25", "star/*?[a]",
	"equals/a=b", "quote/it's", "quote/\"so\"", ".hidden", "dots/..x", "dots/../up", "dots/./here", "control\tcharacter", "colon:9000", "back\\slash",
}

// texts are values that every tool takes, blobs those that only some do.
var (
	texts = map[string][]byte{"empty": nil, "word": []byte("value"), "spaces": []byte("  two words "), "json": []byte(`{"a": [1, "😀"]}`)}
	blobs = map[string][]byte{"zeros": {0, 0, 0}, "every byte": allBytes(), "newlines": []byte("\none\r\n\n"), "a long one": bytes.Repeat([]byte("x\xff"), 50_000)}
)

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func onEveryTool(t *testing.T, f func(t *testing.T, i interop, tl tool, s *kv.Store, root string)) {
	for _, i := range interops() {
		t.Run(string(i.store), func(t *testing.T) {
			srv := servers.Shared(t, testserver.Spec{Store: i.store})
			root := testserver.UniqueName(t)
			s, err := openURL(t, drivers, storeURL(srv.Addrs()[0], i.store, root, testserver.Credentials{}, nil))
			if err != nil {
				t.Fatal(err)
			}
			tl := i.tool(t, srv)
			f(t, i, tl, s, root)
			for e, err := range s.List(t.Context(), "") {
				if err == nil {
					err = s.Delete(t.Context(), e.Key)
				}
				if err != nil {
					t.Errorf("tidying up: %v", err)
				}
			}
		})
	}
}

// TestInteropLibraryToTool writes with the library and reads with the store's own tool: the same bytes, under the same
// names wherever the store takes them, and nothing beside them below the root.
func TestInteropLibraryToTool(t *testing.T) {
	onEveryTool(t, func(t *testing.T, i interop, tl tool, s *kv.Store, root string) {
		ctx := t.Context()
		want := map[string][]byte{}
		for _, key := range interopKeys {
			want[key] = []byte("value of " + key)
		}
		for name, value := range texts {
			want["values/"+name] = value
		}
		if i.binary {
			for name, value := range blobs {
				want["values/"+name] = value
			}
		}
		for key, value := range want {
			if _, err := s.Put(ctx, key, value); err != nil {
				t.Fatalf("put %q: %v", key, err)
			}
		}
		var names []string
		for key, value := range want {
			name := i.name(root, key)
			names = append(names, name)
			if got, found := tl.get(t, name); !found || !bytes.Equal(got, value) {
				t.Errorf("the tool shows %q as %.80q, %v; want %.80q", name, got, found, value)
			}
		}
		slices.Sort(names)
		got := tl.list(t, i.native(root))
		if slices.Sort(got); i.store == testserver.ZooKeeper {
			names = withParents(names, i.native(root)) // which are nodes to zkCli
		}
		if !slices.Equal(got, names) {
			t.Errorf("the tool lists\n%q, want\n%q", got, names)
		}
		// What the library deletes is gone, with whatever stood beside it.
		for key := range want {
			if err := s.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		if got := tl.list(t, i.native(root)); len(got) > 0 {
			t.Errorf("after all was deleted the tool lists %q", got)
		}
	})
}

// withParents adds the names between root and names.
func withParents(names []string, root string) []string {
	all := map[string]bool{}
	for _, name := range names {
		for ; name != root; name = name[:strings.LastIndexByte(name, '/')] {
			all[name] = true
		}
	}
	var out []string
	for name := range all {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// TestInteropToolToLibrary writes with the store's own tool and looks with the library: each write is an event of the right
// kind, and Get, List and a conditional write see it.
func TestInteropToolToLibrary(t *testing.T) {
	onEveryTool(t, func(t *testing.T, i interop, tl tool, s *kv.Store, root string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*within)
		defer cancel()
		w, err := s.Watch(ctx, "", kv.FromSnapshot())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		want := map[string][]byte{}
		for name, value := range texts {
			want[name] = value
		}
		if i.binary {
			for name, value := range blobs {
				want[name] = value
			}
		}
		for _, key := range interopKeys {
			if i.escaped[key] == "" {
				want[key] = []byte("value of " + key)
			}
		}
		var keys []string
		for key, value := range want {
			tl.put(t, i.name(root, key), value)
			e := awaitKey(t, ctx, w, kv.Created, key)
			if !bytes.Equal(e.Value, value) {
				t.Errorf("created %q: the event has %.80q, want %.80q", key, e.Value, value)
			}
			got, err := s.Get(ctx, key)
			if err != nil || !bytes.Equal(got.Value, value) || got.Revision != e.Revision {
				t.Errorf("get %q: %.80q at %d, %v; the event has revision %d", key, got.Value, got.Revision, err, e.Revision)
			}
			keys = append(keys, key)
		}
		// Parents that a tool made are keys where it gave them a value, and then come before what is below them.
		var listed []string
		for e, err := range s.List(ctx, "") {
			if err != nil {
				t.Fatal(err)
			}
			if want[e.Key] != nil || slices.Contains(keys, e.Key) {
				listed = append(listed, e.Key)
			} else if i.store != testserver.ZooKeeper || len(e.Value) > 0 {
				t.Errorf("listed %q, which nobody wrote", e.Key)
			}
		}
		slices.Sort(keys)
		if !slices.Equal(listed, keys) {
			t.Errorf("listed\n%q, want\n%q", listed, keys)
		}

		// A write by the tool in between is a conflict, and what it wrote stays.
		mine, err := s.Put(ctx, "word", []byte("mine"))
		if err != nil {
			t.Fatal(err)
		}
		awaitKey(t, ctx, w, kv.Updated, "word")
		tl.put(t, i.name(root, "word"), []byte("theirs"))
		if e := awaitKey(t, ctx, w, kv.Updated, "word"); string(e.Value) != "theirs" || e.Revision <= mine.Revision {
			t.Errorf("updated: %q at %d, after %d", e.Value, e.Revision, mine.Revision)
		}
		if _, err := s.Update(ctx, "word", []byte("lost"), mine.Revision); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("an update over the tool's write: %v", err)
		}
		if _, err := s.Create(ctx, "word", []byte("lost")); !errors.Is(err, kv.ErrExists) {
			t.Errorf("a create over the tool's write: %v", err)
		}
		if got, found := tl.get(t, i.name(root, "word")); !found || string(got) != "theirs" {
			t.Errorf("afterwards the tool shows %q, %v", got, found)
		}

		// A delete by the tool is an event, and the key is absent.
		tl.del(t, i.name(root, "word"))
		awaitKey(t, ctx, w, kv.Deleted, "word")
		if _, err := s.Get(ctx, "word"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("get of what the tool deleted: %v", err)
		}
		if _, err := s.Update(ctx, "word", []byte("lost"), mine.Revision); !errors.Is(err, kv.ErrConflict) {
			t.Errorf("an update of what the tool deleted: %v", err)
		}

		// So is each of a recursive delete.
		tl.delAll(t, i.native(root)+"/deep")
		awaitKey(t, ctx, w, kv.Deleted, "deep/er/and/deeper")

		// A write by the tool clears a TTL as a plain put does; without one the key goes, in the tool's eyes too. A busy machine
		// takes a second to start a tool.
		for _, key := range []string{"ttl-kept", "ttl-cleared"} {
			if _, err := s.Put(ctx, key, []byte("short"), kv.TTL(4*time.Second)); err != nil {
				t.Fatal(err)
			}
			awaitKey(t, ctx, w, kv.Created, key)
		}
		tl.put(t, i.name(root, "ttl-cleared"), []byte("long"))
		awaitKey(t, ctx, w, kv.Updated, "ttl-cleared")
		awaitKey(t, ctx, w, kv.Deleted, "ttl-kept")
		until(t, "the tool sees no expired key", func() error {
			if _, found := tl.get(t, i.name(root, "ttl-kept")); found {
				return errors.New("still there")
			}
			return nil
		})
		if e, err := s.Get(ctx, "ttl-cleared"); err != nil || string(e.Value) != "long" || !e.Expires.IsZero() {
			t.Errorf("what the tool overwrote: %+v, %v", e, err)
		}
	})
}

// awaitKey reads events of w until one is about key, and fails unless that is of this kind. Parents that the tool had to
// make come before.
func awaitKey(t *testing.T, ctx context.Context, w *kv.Watch[[]byte], kind kv.Kind, key string) kv.Event[[]byte] {
	t.Helper()
	for {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for %v of %q: %v", kind, key, err)
		}
		if ev.Key == key {
			if ev.Kind != kind {
				t.Fatalf("%q was %v, want %v", key, ev.Kind, kind)
			}
			return ev
		}
	}
}

// run runs a command to its end and returns its standard output.
func run(t testing.TB, env []string, stdin []byte, argv ...string) (out []byte, failed error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), within) // what tidies up runs too
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, errors.Join(err, errors.New(stderr.String()))
	}
	return out, nil
}
