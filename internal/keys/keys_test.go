package keys

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// R1: normalisation, and what is no key at all.
func TestCanonical(t *testing.T) {
	for _, test := range []struct {
		in, want string
		err      error
	}{
		{"a", "a", nil},
		{"a/b", "a/b", nil},
		{"/a//b/", "a/b", nil},
		{"///a////b///c//", "a/b/c", nil},
		{"a//", "a", nil},
		{" a / b ", " a / b ", nil},
		{".", ".", nil},
		{"a/../b/.", "a/../b/.", nil},
		{"%2F/*[=]", "%2F/*[=]", nil},
		{"\x01\x7f", "\x01\x7f", nil},
		{"😀/\ufffd/\ufeff", "😀/\ufffd/\ufeff", nil}, // a replacement character is a character
		{"", "", ErrEmpty},
		{"/", "", ErrEmpty},
		{"///", "", ErrEmpty},
		{"a\x00", "", ErrNUL},
		{"a\xff", "", ErrNotUTF8},
		{"\xed\xa0\x80", "", ErrNotUTF8}, // a lone surrogate
		{"\xc0\xaf", "", ErrNotUTF8},     // an overlong slash
	} {
		got, err := Canonical(test.in)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("Canonical(%q) = %q, %v; want %q, %v", test.in, got, err, test.want, test.err)
		}
		if want := test.in == test.want && test.err == nil; IsCanonical(test.in) != want {
			t.Errorf("IsCanonical(%q) = %v", test.in, !want)
		}
	}
}

func TestCanonicalPrefix(t *testing.T) {
	for in, want := range map[string]string{"": "", "/": "", "//": "", "a/": "a", "/a//b": "a/b"} {
		if got, err := CanonicalPrefix(in); got != want || err != nil {
			t.Errorf("CanonicalPrefix(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := CanonicalPrefix("\xff"); err != ErrNotUTF8 {
		t.Errorf("CanonicalPrefix of invalid UTF-8: %v", err)
	}
}

// R3: a prefix is bounded by segments.
func TestUnder(t *testing.T) {
	for _, test := range []struct {
		prefix, key, rest string
		ok                bool
	}{
		{"foo", "foo/bar", "bar", true},
		{"foo", "foo/bar/baz", "bar/baz", true},
		{"foo", "foobar", "", false},
		{"foo", "foo", "", false},
		{"foo", "fo", "", false},
		{"foo", "fox/bar", "", false},
		{"foo/bar", "foo/bar/baz", "baz", true},
		{"", "foo", "foo", true},
		{"", "", "", false},
	} {
		rest, ok := Relative(test.prefix, test.key)
		if rest != test.rest || ok != test.ok {
			t.Errorf("Relative(%q, %q) = %q, %v", test.prefix, test.key, rest, ok)
		}
		if Under(test.prefix, test.key) != test.ok {
			t.Errorf("Under(%q, %q) = %v", test.prefix, test.key, !test.ok)
		}
		if ok && Join(test.prefix, rest) != test.key {
			t.Errorf("Join(%q, %q) != %q", test.prefix, rest, test.key)
		}
	}
	if Join("a", "") != "a" || Join("", "") != "" {
		t.Error("Join with nothing below")
	}
}

func TestChild(t *testing.T) {
	for _, test := range []struct {
		prefix, key, child string
		deeper, ok         bool
	}{
		{"", "a", "a", false, true},
		{"", "a/b", "a", true, true},
		{"a", "a/b", "a/b", false, true},
		{"a", "a/b/c/d", "a/b", true, true},
		{"a", "ab/c", "", false, false},
		{"a", "a", "", false, false},
	} {
		child, deeper, ok := Child(test.prefix, test.key)
		if child != test.child || deeper != test.deeper || ok != test.ok {
			t.Errorf("Child(%q, %q) = %q, %v, %v", test.prefix, test.key, child, deeper, ok)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{
		"a/": "a0", "a": "b", "": "", "\xff": "", "\xff\xff": "", "a\xff": "b", "a\xfe\xff": "a\xff", "é": "\xc3\xaa",
	} {
		if got := PrefixEnd(in); got != want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrefixEnd(f *testing.F) {
	f.Add([]byte("a/"), []byte("a/b"))
	f.Add([]byte("a\xff\xff"), []byte("a\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, prefix, s []byte) {
		end := PrefixEnd(string(prefix))
		inRange := string(s) >= string(prefix) && (end == "" || string(s) < end)
		if inRange != bytes.HasPrefix(s, prefix) {
			t.Errorf("%q in [%q, %q) is %v", s, prefix, end, inRange)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, key := range nasty {
		f.Add(key)
		f.Add("//" + key + "//x/")
	}
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, in string) {
		key, err := Canonical(in)
		if err != nil {
			if IsCanonical(in) {
				t.Fatalf("%q is canonical, and refused: %v", in, err)
			}
			return
		}
		if !IsCanonical(key) {
			t.Fatalf("Canonical(%q) = %q is not canonical", in, key)
		}
		if again, err := Canonical(key); again != key || err != nil {
			t.Fatalf("Canonical(%q) = %q, %v: not idempotent", key, again, err)
		}
		// Exactly the empty segments went.
		want := slices.DeleteFunc(strings.Split(in, "/"), func(s string) bool { return s == "" })
		if got := strings.Split(key, "/"); !slices.Equal(got, want) {
			t.Fatalf("segments of %q: %q, want %q", in, got, want)
		}
	})
}

var sink string

func BenchmarkCanonical(b *testing.B) {
	for name, key := range map[string]string{"canonical": "services/web/instances/0017", "slashes": "/services//web/0017/"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink, _ = Canonical(key)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	const key = "services/web/instances/0017"
	if n := testing.AllocsPerRun(100, func() { sink, _ = Canonical(key) }); n != 0 {
		t.Errorf("Canonical of a canonical key: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { sink, _ = Canonical("/" + key[:8] + "/") }); n > 1 {
		t.Errorf("Canonical of a key with outer slashes: %v allocations", n)
	}
	for name, e := range escapers {
		s := NewSpace("/services", e)
		native, escaped := s.Name(key), s.Name("a/\x01😀/..")
		if n := testing.AllocsPerRun(100, func() { sink = s.Name(key) }); n != 1 {
			t.Errorf("%s: Name: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(100, func() { sink = s.Name("a/\x01😀/..") }); n != 1 {
			t.Errorf("%s: Name with escapes: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(100, func() { sink = s.Prefix(key) }); n != 1 {
			t.Errorf("%s: Prefix: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(100, func() { sink, _ = s.Key(native) }); n != 0 {
			t.Errorf("%s: Key: %v allocations", name, n)
		}
		if _, ok := s.Key(escaped); !ok {
			t.Errorf("%s: Key(%q) refused", name, escaped)
		}
	}
}
