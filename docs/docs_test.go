// Package docs_test keeps the pages beside it true.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// What a page links to in the repository is there.
func TestLinks(t *testing.T) {
	found := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("%d links, %v", found, err)
	}
}

// lastRule is the number of the last guarantee in semantics.md.
const lastRule = 44

var (
	rule     = regexp.MustCompile(`(?m)^\*\*R(\d+)\.\*\* `)
	caseName = regexp.MustCompile(`"(R\d+(?:,R\d+)*)/`)
)

// Each guarantee stands once, in order, and the conformance suite has a case
// for no other.
func TestRules(t *testing.T) {
	text, err := os.ReadFile("semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for i, m := range rule.FindAllStringSubmatch(string(text), -1) {
		if m[1] != strconv.Itoa(i+1) {
			t.Fatalf("R%s stands where R%d should", m[1], i+1)
		}
		rules["R"+m[1]] = true
	}
	if len(rules) != lastRule {
		t.Errorf("%d guarantees, not %d", len(rules), lastRule)
	}
	files, err := filepath.Glob("../backend/backendtest/*.go")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range caseName.FindAllStringSubmatch(string(text), -1) {
			cases++
			for name := range strings.SplitSeq(m[1], ",") {
				if !rules[name] {
					t.Errorf("%s: a case for %s, which is no guarantee", file, name)
				}
			}
		}
	}
	if cases == 0 {
		t.Error("no cases were found")
	}
}

// keptOnce are the guarantees that package kv, or the shape of the interface, keeps for all stores alike: semantics.md says
// so. A store's page has to say of every other one how it is kept there.
var keptOnce = map[int]bool{1: true, 3: true, 8: true, 13: true, 15: true, 35: true, 39: true, 40: true, 41: true, 42: true, 43: true, 44: true}

var named = regexp.MustCompile(`R(\d+)(?:–R(\d+))?`)

func TestStoresSayHowEachRuleIsKept(t *testing.T) {
	for _, store := range []string{"etcd", "consul", "zookeeper", "redis", "bolt"} {
		text, err := os.ReadFile(filepath.Join("stores", store+".md"))
		if err != nil {
			t.Fatal(err)
		}
		said := map[int]bool{}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			first, _ := strconv.Atoi(m[1])
			last, err := strconv.Atoi(m[2])
			if err != nil {
				last = first
			}
			for r := first; r <= last; r++ {
				said[r] = true
			}
		}
		for r := 1; r <= lastRule; r++ {
			if !said[r] && !keptOnce[r] {
				t.Errorf("stores/%s.md does not say how R%d is kept", store, r)
			}
		}
		for _, section := range []string{"## Cost", "## Limits", "## Rights"} {
			if !strings.Contains(string(text), "\n"+section) && !(store == "bolt" && section == "## Limits") {
				t.Errorf("stores/%s.md has no section %q", store, section)
			}
		}
	}
}
