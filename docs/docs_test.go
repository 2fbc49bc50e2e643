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
