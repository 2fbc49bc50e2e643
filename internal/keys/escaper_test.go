package keys

import (
	"hash/fnv"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf16"
)

var escapers = map[string]Escaper{"verbatim": Verbatim(), "consul": Consul(), "zookeeper": ZooKeeper()}

// nasty holds canonical keys of which some store, client or shell makes something else.
var nasty = []string{
	"a", "a/b/c", ".", "..", "...", "a/./b", "a/../b", "./..", "..a", "a..b", ".a", "a.",
	" ", "  ", " a", "a ", "a b", "a/ b/c ", "\u00a0", "\u3000a", "\u2028",
	"%", "%%", "%2F", "%2f/..", "%2e%2e%2f", "%%41", "%4", "100%", "a b/%41c", "..%2F..%2Fetc", "%zz", "%25%32%45",
	"*", "[", "]", "?", "a?b", "foo*", "[a-z]", `\`, `..\`, "{tag}", "#", "a#b", "&", "a&b=c", "+", "~", "'", `"`, "$HOME", ";", "`",
	"=", "==", "=u", "=u0", "=u09", "=u09-", "=u3D-", "=u3D-u09-", "=u41-", "=u2E-", "=u2E-.", "=u20-", "a=u20-", "=u25-41",
	"=u009-", "=u9-", "=u1F600-", "=u1f600-", "=uD800-", "=u110000-", "=u00-", "==u09-", "=u=u09-", "=u0\x01-", "=\x09-", "size=10", "a=b=c",
	"\x01", "a\x1fb", "\t", "\n", "\x7f", "\u0080", "\u009f", "\u00ad", "\x1b[31m",
	"é", "e\u0301", "ß/ſ", "Ⅷ", "日本語", "العربية", "한글", "İi", "a\u200db", "\ufeff", "\ufffd", "\uffff", "\ufff0", "\uf8ff", "\ue000", "\ufb00",
	"😀", "👩\u200d👩\u200d👧", "🇩🇪", "\U0010ffff", "𝔘", "\u0378", "\U0001fae0",
	"zookeeper", "zookeeper/quota", "zookeeper=", "zookeeper==/a", "a/zookeeper", "=kv", "=kv=", "=kv/x", "=kv-",
	strings.Repeat("long/", 200) + "key", strings.Repeat("\x02", 300),
}

func TestEscaperTable(t *testing.T) {
	for _, test := range []struct{ key, consul, zooKeeper string }{
		{"services/web-1/config.yaml", "", ""},
		{"a:b@c,d;e=f&g?h*[i]{j}|~!$'\"", "", ""},
		{"a b/c%d", "", ""},
		{"café/日本語", "", ""},
		{"...", "", ""},
		{".", "=u2E-", "=u2E-"},
		{"a/..", "a/=u2E-.", "a/=u2E-."},
		{" a ", "=u20-a=u20-", " a "},
		{" ", "=u20-", " "},
		{"%2Fx", "=u25-2Fx", "%2Fx"},
		{"100%", "", ""},
		{"\t", "=u09-", "=u09-"},
		{"a\u00a0b", "a=uA0-b", "a\u00a0b"},
		{"😀", "😀", "=u1F600-"},
		{"a\u200db", "a=u200D-b", "a\u200db"},
		{"\ue000", "=uE000-", "=uE000-"},
		{"\ufffd", "\ufffd", "=uFFFD-"},
		{"size=10", "", ""},
		{"=u09-", "=u3D-u09-", "=u3D-u09-"},
		{"=u41-", "", ""},
		{"=u20-", "=u3D-u20-", "=u20-"},
		{"=u1F600-", "=u1F600-", "=u3D-u1F600-"},
		{"=u\x09-", "=u=u09--", "=u=u09--"},
	} {
		if test.consul == "" {
			test.consul, test.zooKeeper = test.key, test.key
		}
		if got := Consul().Encode(test.key); got != test.consul {
			t.Errorf("Consul: Encode(%q) = %q, want %q", test.key, got, test.consul)
		}
		if got := ZooKeeper().Encode(test.key); got != test.zooKeeper {
			t.Errorf("ZooKeeper: Encode(%q) = %q, want %q", test.key, got, test.zooKeeper)
		}
		if got := Verbatim().Encode(test.key); got != test.key {
			t.Errorf("Verbatim: Encode(%q) = %q", test.key, got)
		}
	}
}

// Names that are no key's: what the store refuses, an escape that was not needed, and no segment at all.
func TestDecodeRefuses(t *testing.T) {
	for native, by := range map[string]string{
		"":           "verbatim consul zookeeper",
		"a//b":       "verbatim consul zookeeper",
		"dir/":       "verbatim consul zookeeper",
		"/a":         "verbatim consul zookeeper",
		"a\xff":      "verbatim consul zookeeper",
		"a\x00":      "verbatim consul zookeeper",
		"..":         "consul zookeeper",
		"\t":         "consul zookeeper",
		" a":         "consul",
		"%41":        "consul",
		"😀":          "zookeeper",
		"a=u20-b":    "consul", // the space inside needs no escape
		"a=u2E-":     "consul zookeeper",
		"=u2E-=u2E-": "consul zookeeper", // one is enough
		"=u3D-":      "consul zookeeper",
		"=u09-\t":    "consul zookeeper",
		"=u3D-u41-":  "consul zookeeper", // "=u41-" is literal, and so stands for itself
	} {
		for name, e := range escapers {
			key, ok := e.Decode(native)
			if ok == strings.Contains(by, name) {
				t.Errorf("%s: Decode(%q) = %q, %v", name, native, key, ok)
			}
		}
	}
}

func TestEscaperNasty(t *testing.T) {
	for name, e := range escapers {
		t.Run(name, func(t *testing.T) {
			seen := map[string]string{}
			for _, key := range nasty {
				checkKey(t, name, e, key)
				native := e.Encode(key)
				if other, dup := seen[native]; dup && other != key {
					t.Errorf("%q and %q are both %q", key, other, native)
				}
				seen[native] = key
			}
		})
	}
}

// R2: decode(encode(k)) == k; the length is the one that was announced; the store takes it; segments are independent.
func checkKey(t *testing.T, name string, e Escaper, key string) {
	t.Helper()
	native := e.Encode(key)
	if got, ok := e.Decode(native); got != key || !ok {
		t.Fatalf("Decode(Encode(%q) = %q) = %q, %v", key, native, got, ok)
	}
	if e.EncodedLen(key) != len(native) || len(native) > MaxExpansion*len(key) {
		t.Fatalf("EncodedLen(%q) = %d, want %d", key, e.EncodedLen(key), len(native))
	}
	if !IsCanonical(native) {
		t.Fatalf("Encode(%q) = %q is not canonical", key, native)
	}
	switch name {
	case "consul":
		if why := consulServerRefuses(native); why != "" {
			t.Fatalf("Encode(%q) = %q: Consul %s", key, native, why)
		}
	case "zookeeper":
		if zooKeeperServerRefuses(native) {
			t.Fatalf("Encode(%q) = %q is refused by ZooKeeper", key, native)
		}
	}
	var segments []string
	for segment := range strings.SplitSeq(key, "/") {
		encoded := e.EncodeSegment(segment)
		if got, ok := e.DecodeSegment(encoded); got != segment || !ok {
			t.Fatalf("DecodeSegment(%q) = %q, %v; want %q", encoded, got, ok, segment)
		}
		segments = append(segments, encoded)
	}
	if got := strings.Join(segments, "/"); got != native {
		t.Fatalf("Encode(%q) = %q, by segments %q", key, native, got)
	}
}

// Encode leaves alone what the store takes, so keys of other programs are seen under the names they have.
func TestOnlyWhatIsRefused(t *testing.T) {
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if r == '/' || 0xD800 <= r && r <= 0xDFFF {
			continue
		}
		key := "a" + string(r) + "b"
		if same, refused := ZooKeeper().Encode(key) == key, zooKeeperServerRefuses(key); same == refused {
			t.Fatalf("ZooKeeper: %U: unchanged %v, refused %v", r, same, refused)
		}
		// Unicode 14 began at U+061D: such characters are printable to this Go and not to an older agent.
		same, refused := Consul().Encode(key) == key, consulServerRefuses(key) != ""
		if same && refused || !same && !refused && r < 0x61D {
			t.Fatalf("Consul: %U: unchanged %v, refused %v", r, same, refused)
		}
	}
}

// The table decides under which name a key is stored: a changed one would lose keys.
func TestPrintableIsFrozen(t *testing.T) {
	h := fnv.New64a()
	count := 0
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if unicode.Is(printable13, r) {
			h.Write([]byte{byte(r >> 16), byte(r >> 8), byte(r)})
			count++
		}
	}
	const wantCount, wantHash = 143585, 0xab617e2a5193212b
	if count != wantCount || h.Sum64() != wantHash {
		t.Errorf("printable13 has %d characters, hash %#x; want %d, %#x", count, h.Sum64(), wantCount, uint64(wantHash))
	}
}

// consulServerRefuses says what the agents from 1.14 on object to in /v1/kv/native, or "".
func consulServerRefuses(native string) string {
	if strings.ContainsFunc(native, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "answers 400: not printable"
	}
	if path.Clean("/"+native) != "/"+native {
		return "redirects to the cleaned path"
	}
	if strings.Trim(native, " ") != native {
		return "refuses outer spaces"
	}
	if decoded, err := url.PathUnescape(native); err == nil && decoded != native && strings.ContainsAny(decoded, " .") {
		return "may refuse what it decodes to"
	}
	return ""
}

// zooKeeperServerRefuses is the rule of PathUtils.validatePath, on UTF-16 code units as Java has them.
func zooKeeperServerRefuses(native string) bool {
	for _, c := range utf16.Encode([]rune(native)) {
		if c <= 0x1F || 0x7F <= c && c <= 0x9F || 0xD800 <= c && c <= 0xF8FF || c >= 0xFFF0 {
			return true
		}
	}
	for segment := range strings.SplitSeq(native, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// FuzzEscaper takes two keys, or one key and one native name.
func FuzzEscaper(f *testing.F) {
	for i, key := range nasty {
		f.Add(key, nasty[(i+1)%len(nasty)])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for name, e := range escapers {
			// encode(decode(n)) == n for every name that decodes at all.
			if key, ok := e.Decode(b); ok && (e.Encode(key) != b || !IsCanonical(key)) {
				t.Fatalf("%s: Decode(%q) = %q, which encodes to %q", name, b, key, e.Encode(key))
			}
			if segment, ok := e.DecodeSegment(b); ok && e.EncodeSegment(segment) != b {
				t.Fatalf("%s: DecodeSegment(%q) = %q, which encodes to %q", name, b, segment, e.EncodeSegment(segment))
			}
			if !IsCanonical(a) {
				continue
			}
			checkKey(t, name, e, a)
			if !IsCanonical(b) {
				continue
			}
			if a != b && e.Encode(a) == e.Encode(b) {
				t.Fatalf("%s: %q and %q collide", name, a, b)
			}
			// Prefixes bound what lies below them, and nothing else.
			if got, want := Under(e.Encode(a), e.Encode(b)), Under(a, b); got != want {
				t.Fatalf("%s: %q below %q is %v, their encodings %v", name, b, a, want, got)
			}
			if !Under(e.Encode(a), e.Encode(Join(a, b))) {
				t.Fatalf("%s: the encoding of %q does not bound that of %q", name, a, Join(a, b))
			}
		}
	})
}
