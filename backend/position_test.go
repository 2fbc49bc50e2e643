package backend

import (
	"errors"
	"strings"
	"testing"
	"unicode"
)

func TestPosition(t *testing.T) {
	scope := ScopeOf("root", "prefix", false)
	for _, p := range []Position{
		{Store: "etcd", Scope: scope},
		{Store: "etcd", Epoch: "e1", Scope: scope, Revision: 1},
		{Store: "redis", Epoch: "", Scope: scope, Revision: 1<<64 - 1, Extra: "17-3"},
		{Store: "bolt", Epoch: "abc", Scope: scope, Revision: 36, Extra: ""},
	} {
		token := p.Token()
		got, err := ParseToken(token, p.Store, scope)
		if err != nil || got != p {
			t.Errorf("%+v came back from %q as %+v, %v", p, token, got, err)
		}
		if strings.ContainsFunc(string(token), func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' }) {
			t.Errorf("%q is not printable", token)
		}
		for what, parse := range map[string]func() (Position, error){
			"another store": func() (Position, error) { return ParseToken(token, "zookeeper", scope) },
			"another scope": func() (Position, error) { return ParseToken(token, p.Store, scope+1) },
			"a part of it":  func() (Position, error) { return ParseToken(token[:5], p.Store, scope) },
			"a later form":  func() (Position, error) { return ParseToken("2"+token[1:], p.Store, scope) },
		} {
			if got, err := parse(); !errors.Is(err, ErrInvalid) {
				t.Errorf("%q, read for %s: %+v, %v, want ErrInvalid", token, what, got, err)
			}
		}
	}
}

func TestScopeOf(t *testing.T) {
	seen := map[Scope][3]string{}
	for _, root := range []string{"", "a", "/a", "a/b", "ab"} {
		for _, prefix := range []string{"", "a", "b", "a/b", "/"} {
			for _, key := range []bool{false, true} {
				s := ScopeOf(root, prefix, key)
				was, ok := seen[s]
				if ok {
					t.Errorf("%q, %q, key %v has the scope of %q", root, prefix, key, was)
				}
				seen[s] = [3]string{root, prefix, map[bool]string{true: "key"}[key]}
			}
		}
	}
	if a, b := ScopeOf("a", "b", true), ScopeOf("a", "b", true); a != b {
		t.Errorf("one scope, two digests: %d and %d", a, b)
	}
}

func FuzzParseToken(f *testing.F) {
	scope := ScopeOf("root", "prefix", false)
	f.Add(string(Position{Store: "etcd", Epoch: "e", Scope: scope, Revision: 77, Extra: "x"}.Token()))
	f.Add("1:::::")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := ParseToken(Token(token), "etcd", scope)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || p != (Position{}) {
				t.Errorf("%+v, %v", p, err)
			}
			return
		}
		again, err := ParseToken(p.Token(), "etcd", scope)
		if err != nil || again != p {
			t.Errorf("%q is read as %+v, printed and read again as %+v, %v", token, p, again, err)
		}
	})
}
