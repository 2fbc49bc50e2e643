package backend

import (
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]URL{
		"etcd://h":                       {Scheme: "etcd", Hosts: []string{"h"}},
		"ETCD://h:1":                     {Scheme: "etcd", Hosts: []string{"h:1"}},
		"etcd://h1:2379,h2:2379,h3/demo": {Scheme: "etcd", Hosts: []string{"h1:2379", "h2:2379", "h3"}, Path: "/demo"},
		// Several IPv6 hosts: net/url refuses them.
		"etcd://[::1]:2379,[2001:db8::1]:2379/": {Scheme: "etcd", Hosts: []string{"[::1]:2379", "[2001:db8::1]:2379"}, Path: "/"},
		"zk://[::1]":                            {Scheme: "zk", Hosts: []string{"[::1]"}},
		"etcd://h//demo":                        {Scheme: "etcd", Hosts: []string{"h"}, Path: "//demo"},
		"etcd://h/a%20b%2Fc":                    {Scheme: "etcd", Hosts: []string{"h"}, Path: "/a b/c"},
		"bolt:///var/lib/kv.db":                 {Scheme: "bolt", Path: "/var/lib/kv.db"},
		"memory://":                             {Scheme: "memory"},
		"redis://user:pass@h/0":                 {Scheme: "redis", User: "user", Password: "pass", Hosts: []string{"h"}, Path: "/0"},
		"redis://:pass@h":                       {Scheme: "redis", Password: "pass", Hosts: []string{"h"}},
		"redis://user@h":                        {Scheme: "redis", User: "user", Hosts: []string{"h"}},
		"redis://u%40x:p%3A%2F%40%3F@h":         {Scheme: "redis", User: "u@x", Password: "p:/@?", Hosts: []string{"h"}},
		"redis://u:p@ss@h":                      {Scheme: "redis", User: "u", Password: "p@ss", Hosts: []string{"h"}},
		"redis://u:p:ss@h":                      {Scheme: "redis", User: "u", Password: "p:ss", Hosts: []string{"h"}},
		"redis://u:p@/db":                       {Scheme: "redis", User: "u", Password: "p", Path: "/db"},
		"consul://h/x?token=t&wait=1m":          {Scheme: "consul", Hosts: []string{"h"}, Path: "/x", Query: url.Values{"token": {"t"}, "wait": {"1m"}}},
		"consul://h?a=1":                        {Scheme: "consul", Hosts: []string{"h"}, Query: url.Values{"a": {"1"}}},
	} {
		got, err := ParseURL(raw)
		if err != nil {
			t.Errorf("ParseURL(%q): %v", raw, err)
			continue
		}
		if want.Query == nil {
			want.Query = url.Values{}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("ParseURL(%q) = %#v, want %#v", raw, got, want)
		}
	}
}

// What is refused must not be shown: wherever the parser loses its way, the
// password may stand. In several of these a password is not escaped, so that
// its first half looks like a port.
func TestParseURLRefuses(t *testing.T) {
	for _, raw := range []string{
		"", "h", "h:2379", "://h", "etcd:/h", "etcd:h", " etcd://h", "1etcd://h", "é://h",
		"alice:hunter2@redis://h", "hunter2@redis://h", "redis:alice:hunter2://h",
		"etcd://h,", "etcd://,h", "etcd://h1,,h2", "etcd://h:port", "etcd://h:1:2", "etcd://[::1", "etcd://::1", "etcd://h h",
		"etcd://h/%zz", "etcd://h?%zz", "etcd://h?a=%zz", "etcd://h/x#frag",
		"redis://al%zzice:hunter2@h", "redis://alice:hunter2@h:port", "redis://alice:hunter2@h/%zz",
		"redis://alice:hunter2/secret@h", "redis://alice:hunter2?secret@h", "redis://alice:hunter2#secret@h", "redis://alice:hunter2@h1,h 2",
		"redis://alice:12?hunter2@h", "redis://alice:12?a&hunter2@h/x", "redis://:12?a=b&hunter2@h",
		"redis://alice:hunter2@secret@h:port", "redis://alice:hunter2%zz@h",
	} {
		u, err := ParseURL(raw)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseURL(%q) = %#v, %v, want ErrInvalid", raw, u, err)
			continue
		}
		for _, secret := range []string{"hunter2", "secret", "alice"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error for %q shows %q: %v", raw, secret, err)
			}
		}
	}
}

func TestURLString(t *testing.T) {
	for raw, want := range map[string]string{
		"etcd://h1:1,h2/demo":         "etcd://h1:1,h2/demo",
		"redis://user:hunter2@h/0":    "redis://user:xxxxx@h/0",
		"redis://:hunter2@h":          "redis://:xxxxx@h",
		"redis://us%40er@h/a%20b":     "redis://us@er@h/a%20b",
		"consul://h/x?token=hunter2":  "consul://h/x",
		"bolt:///var/lib/a%23b.db":    "bolt:///var/lib/a%23b.db",
		"redis://user:hunter2@h//a/b": "redis://user:xxxxx@h//a/b",
	} {
		u, err := ParseURL(raw)
		if err != nil {
			t.Errorf("ParseURL(%q): %v", raw, err)
		} else if got := u.String(); got != want {
			t.Errorf("%q prints as %q, want %q", raw, got, want)
		}
	}
}

func TestURLRoot(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "", "/demo": "demo", "/demo/": "demo", "/a/b": "a/b",
		"//demo": "/demo", "//": "", "//a/b//": "/a/b", "/ ": " ",
	} {
		if got := (URL{Path: path}).Root(); got != want {
			t.Errorf("path %q has root %q, want %q", path, got, want)
		}
	}
}

func TestHostPorts(t *testing.T) {
	for _, c := range []struct{ hosts, want []string }{
		{nil, []string{"localhost:99"}},
		{[]string{"h", "h:1"}, []string{"h:99", "h:1"}},
		{[]string{"[::1]", "[::1]:1"}, []string{"[::1]:99", "[::1]:1"}},
		{[]string{"h:"}, []string{"h:99"}},
	} {
		given := append([]string(nil), c.hosts...)
		if got := (URL{Hosts: c.hosts}).HostPorts("localhost", "99"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("HostPorts of %q = %q, want %q", c.hosts, got, c.want)
		}
		if !reflect.DeepEqual(given, append([]string(nil), c.hosts...)) {
			t.Errorf("HostPorts changed its receiver to %q", c.hosts)
		}
	}
}

func TestParams(t *testing.T) {
	u, err := ParseURL("x://h?s=v&empty=&yes&no=false&n=7&d=1m30s")
	if err != nil {
		t.Fatal(err)
	}
	p := u.Params()
	for what, ok := range map[string]bool{
		"String":           p.String("s", "def") == "v",
		"an empty String":  p.String("empty", "def") == "",
		"String's default": p.String("none", "def") == "def",
		"a bare Bool":      p.Bool("yes", false),
		"Bool":             !p.Bool("no", true),
		"Bool's default":   p.Bool("none", true),
		"Int":              p.Int("n", 1) == 7,
		"Int's default":    p.Int("none", 1) == 1,
		"Duration":         p.Duration("d", 0) == 90*time.Second,
		"its default":      p.Duration("none", time.Hour) == time.Hour,
	} {
		if !ok {
			t.Errorf("%s is wrong", what)
		}
	}
	if err := p.Err(); err != nil {
		t.Errorf("Err after everything was read: %v", err)
	}
}

func TestParamsErrors(t *testing.T) {
	for query, read := range map[string]func(*Params){
		"unknown=1":       func(p *Params) { p.String("known", "") },
		"b=maybe":         func(p *Params) { p.Bool("b", false) },
		"n=hunter2":       func(p *Params) { p.Int("n", 0) },
		"n=1.5":           func(p *Params) { p.Int("n", 0) },
		"n=":              func(p *Params) { p.Int("n", 0) },
		"n=-1":            func(p *Params) { p.Int("n", 0) },      // drivers would take it for their default
		"d=5":             func(p *Params) { p.Duration("d", 0) }, // no unit: it may mean anything
		"d=-1s":           func(p *Params) { p.Duration("d", 0) },
		"s=1&s=hunter2":   func(p *Params) { p.String("s", "") }, // which of the two?
		"token=hunter2&x": func(p *Params) { p.Bool("x", false) },
	} {
		u, err := ParseURL("x://h?" + query)
		if err != nil {
			t.Fatal(err)
		}
		p := u.Params()
		read(p)
		if err := p.Err(); !errors.Is(err, ErrInvalid) {
			t.Errorf("?%s: %v, want ErrInvalid", query, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("?%s: the error shows a value: %v", query, err)
		}
	}
}

// A parameter that is misspelt, or another driver's, is answered with what there is.
func TestParamsNamesWhatThereIs(t *testing.T) {
	u, err := ParseURL("x://h/r?dial=5s&zone=a")
	if err != nil {
		t.Fatal(err)
	}
	p := u.Params()
	p.Duration("dial_timeout", 0)
	p.String("bucket", "")
	err = p.Err()
	if want := `unknown URL parameter "dial"; there are: bucket, dial_timeout`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whatever stands in a URL as user and password, neither an error nor the
// printed form shows the password.
func FuzzURLKeepsPassword(f *testing.F) {
	f.Add("etcd", "h1:2379,h2", "/demo", "a=1")
	f.Add("redis", "[::1]:1,[::2]", "//x/%zz", "%")
	f.Add("", "h:port", "", "")
	f.Fuzz(func(t *testing.T, scheme, hosts, path, query string) {
		const password = "hunter2"
		if strings.ContainsAny(scheme, ":/?#") {
			return // then what follows is no authority
		}
		u, err := ParseURL(scheme + "://user:" + password + "@" + hosts + "/" + path + "?" + query)
		shown := u.String()
		if err != nil {
			shown = err.Error()
		}
		if strings.Contains(shown, password) && !strings.Contains(scheme+hosts+path+query, password) {
			t.Errorf("shown: %s", shown)
		}
	})
}
