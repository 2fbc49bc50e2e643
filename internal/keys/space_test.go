package keys

import (
	"strings"
	"testing"
)

var roots = []string{"", "/", "a", "/a", "/a/b", "a/", "é b", "{tag}", "/zookeeper", "=kv"}

func TestSpaceTable(t *testing.T) {
	for _, test := range []struct{ root, key, name, prefix, meta string }{
		{"", "foo", "foo", "foo/", "=kv"},
		{"/", "foo", "/foo", "/foo/", "/=kv"},
		{"traefik", "foo/bar", "traefik/foo/bar", "traefik/foo/bar/", "traefik=kv"},
		{"/traefik", "foo", "/traefik/foo", "/traefik/foo/", "/traefik=kv"},
		{"/traefik/", "foo", "/traefik/foo", "/traefik/foo/", "/traefik=kv"},
		{"/a/b", "..", "/a/b/=u2E-.", "/a/b/=u2E-./", "/a/b=kv"},
		{"/", "zookeeper", "/zookeeper=", "/zookeeper=/", "/=kv"},
		{"/", "zookeeper/x", "/zookeeper=/x", "/zookeeper=/x/", "/=kv"},
		{"/", "zookeeper=/x", "/zookeeper==/x", "/zookeeper==/x/", "/=kv"},
		{"/", "zookeeper-", "/zookeeper-", "/zookeeper-/", "/=kv"},
		{"/a", "zookeeper", "/a/zookeeper", "/a/zookeeper/", "/a=kv"},
		{"/", "=kv", "/=kv=", "/=kv=/", "/=kv"},
		{"", "=kv/x", "=kv=/x", "=kv=/x/", "=kv"},
		{"/a", "=kv", "/a/=kv", "/a/=kv/", "/a=kv"},
	} {
		s := NewSpace(test.root, ZooKeeper())
		if got := s.Name(test.key); got != test.name {
			t.Errorf("%q: Name(%q) = %q, want %q", test.root, test.key, got, test.name)
		}
		if got := s.Prefix(test.key); got != test.prefix {
			t.Errorf("%q: Prefix(%q) = %q, want %q", test.root, test.key, got, test.prefix)
		}
		if got := s.Meta(); got != test.meta {
			t.Errorf("%q: Meta() = %q, want %q", test.root, got, test.meta)
		}
	}
}

// R5: the root is the user's choice, and a foreign name without a canonical form is refused.
func TestSpaceForeignNames(t *testing.T) {
	for _, test := range []struct{ root, native, key string }{
		{"/traefik", "/traefik/http/routers", "http/routers"},
		{"/traefik", "/traefik", ""},
		{"/traefik", "/traefik/", ""},
		{"/traefik", "traefik/http", ""},
		{"/traefik", "/traefikx/http", ""},
		{"/traefik", "/traefik//http", ""},
		{"/traefik", "/traefik/dir/", ""},
		{"/traefik", "/traefik/\xff", ""},
		{"traefik", "traefik/http", "http"},
		{"traefik", "/traefik/http", ""},
		{"", "http", "http"},
		{"", "/http", ""},
		{"", "", ""},
		{"/", "/http", "http"},
		{"/", "//http", ""},
		{"/", "/", ""},
	} {
		for name, e := range escapers {
			key, ok := NewSpace(test.root, e).Key(test.native)
			if key != test.key || ok != (test.key != "") {
				t.Errorf("%s: %q: Key(%q) = %q, %v; want %q", name, test.root, test.native, key, ok, test.key)
			}
		}
	}
}

// R6: no key has the bookkeeping's name or one below it, whatever the root.
func TestSpaceReserved(t *testing.T) {
	for _, root := range roots {
		s := NewSpace(root, ZooKeeper())
		for _, native := range []string{s.Meta(), s.Meta() + "/x"} {
			if !s.Reserved(native) {
				t.Errorf("%q: Reserved(%q) is false", root, native)
			}
			if key, ok := s.Key(native); ok {
				t.Errorf("%q: the bookkeeping's %q is the key %q", root, native, key)
			}
		}
		if s.Reserved(s.Meta()+"x") || s.Reserved(s.Name("a")) || s.Reserved(s.Root()) {
			t.Errorf("%q: reserves too much", root)
		}
	}
	if s := NewSpace("/", ZooKeeper()); !s.Reserved("/zookeeper/quota") || s.Reserved("/zookeeper=") {
		t.Error("the server's own node in ZooKeeper's root")
	}
	if s := NewSpace("/", Verbatim()); s.Reserved("/zookeeper") || s.Name("zookeeper") != "/zookeeper" {
		t.Error("/zookeeper is an ordinary name elsewhere")
	}
}

func TestWithMeta(t *testing.T) {
	for _, test := range []struct {
		root, meta string
		err        error
	}{
		{"/a/b", "/a/.kv", nil},
		{"/a/b", "/elsewhere/kv/b", nil},
		{"/a/b", "/a/b/.kv", nil},
		{"/a/b", "/a/b/.kv/", nil},
		{"/a/b", "/a/b2", nil},
		{"", ".kv", nil},
		{"/", "/.kv", nil},
		{"/a/b", "", ErrMetaName},
		{"/a/b", "/", ErrMetaName},
		{"/a/b", "/a/b", ErrMetaName},
		{"/a/b", "/a/b/", ErrMetaName},
		{"/a/b", "/a", ErrMetaName},
		{"/a/b", "/a/b/x/y", ErrMetaName},
		{"", "x/y", ErrMetaName},
		{"/", "/zookeeper", ErrMetaName},
		{"/a/b", "/a/b/..", ErrReserveName},
		{"/a/b", "/a/b/x=", ErrReserveName},
	} {
		s, err := NewSpace(test.root, ZooKeeper()).WithMeta(test.meta)
		if err != test.err {
			t.Errorf("%q: WithMeta(%q): %v, want %v", test.root, test.meta, err, test.err)
		}
		if err != nil {
			continue
		}
		if s.Meta() != strings.TrimSuffix(test.meta, "/") || !s.Reserved(s.Meta()+"/x") {
			t.Errorf("%q: WithMeta(%q).Meta() = %q", test.root, test.meta, s.Meta())
		}
		for _, key := range append([]string{".kv", ".kv/x", ".kv=", "=kv"}, nasty...) {
			checkSpace(t, s, key)
		}
	}
	// The default name is free again, and the Space that it came from is as it was.
	before := NewSpace("", Verbatim())
	after, err := before.WithMeta("elsewhere")
	if err != nil || after.Name("=kv") != "=kv" || before.Name("=kv") != "=kv=" || before.Name("elsewhere") != "elsewhere" {
		t.Errorf("after WithMeta: %v, %q, %q", err, after.Name("=kv"), before.Name("=kv"))
	}
}

func TestRoot(t *testing.T) {
	for root, want := range map[string]string{"": "", "/": "/", "a": "a", "/a/": "/a", "//": "/", "/a/b": "/a/b"} {
		if got := NewSpace(root, Verbatim()).Root(); got != want {
			t.Errorf("NewSpace(%q).Root() = %q, want %q", root, got, want)
		}
	}
}

func TestSpaceNasty(t *testing.T) {
	for _, e := range escapers {
		for _, root := range roots {
			s := NewSpace(root, e)
			for _, key := range nasty {
				checkSpace(t, s, key)
			}
		}
	}
}

func checkSpace(t *testing.T, s Space, key string) {
	t.Helper()
	native := s.Name(key)
	if got, ok := s.Key(native); got != key || !ok {
		t.Fatalf("%q: Key(Name(%q) = %q) = %q, %v", s.Root(), key, native, got, ok)
	}
	if s.NameLen(key) != len(native) {
		t.Fatalf("%q: NameLen(%q) = %d, want %d", s.Root(), key, s.NameLen(key), len(native))
	}
	if s.Reserved(native) {
		t.Fatalf("%q: Name(%q) = %q is reserved", s.Root(), key, native)
	}
	if !strings.HasPrefix(native, s.Prefix("")) || s.Prefix(key) != native+"/" {
		t.Fatalf("%q: %q has the name %q and the prefix %q", s.Root(), key, native, s.Prefix(key))
	}
}

func FuzzSpace(f *testing.F) {
	for i, key := range nasty {
		f.Add(key, nasty[(i+7)%len(nasty)], "")
		f.Add(key, "x", "/a")
	}
	f.Fuzz(func(t *testing.T, a, b, root string) {
		for _, e := range escapers {
			for _, root := range append(roots, root) {
				s := NewSpace(root, e)
				if key, ok := s.Key(b); ok && s.Name(key) != b {
					t.Fatalf("%q: Key(%q) = %q, whose name is %q", root, b, key, s.Name(key))
				}
				if !IsCanonical(a) {
					continue
				}
				checkSpace(t, s, a)
				if !IsCanonical(b) {
					continue
				}
				if a != b && s.Name(a) == s.Name(b) {
					t.Fatalf("%q: %q and %q collide", root, a, b)
				}
				if strings.HasPrefix(s.Name(b), s.Prefix(a)) != Under(a, b) {
					t.Fatalf("%q: prefix %q and name %q", root, s.Prefix(a), s.Name(b))
				}
			}
		}
	})
}

func BenchmarkName(b *testing.B) {
	for name, e := range escapers {
		s := NewSpace("/services", e)
		for kind, key := range map[string]string{"ordinary": "web/instances/0017", "escaped": "web/\x01/.."} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink = s.Name(key)
				}
			})
		}
	}
}

func BenchmarkKey(b *testing.B) {
	for name, e := range escapers {
		s := NewSpace("/services", e)
		for kind, key := range map[string]string{"ordinary": "web/instances/0017", "escaped": "web/\x01/.."} {
			native := s.Name(key)
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sink, _ = s.Key(native)
				}
			})
		}
	}
}
