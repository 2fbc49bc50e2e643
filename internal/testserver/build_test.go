package testserver

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// fakeSource makes a repository whose Etcd is a tiny program, and moves the test into a package of it.
func fakeSource(t *testing.T, program string) goServer {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "integration", "servers", "etcd")
	pkg := filepath.Join(root, "backend", "etcdkv")
	for _, d := range []string{dir, pkg} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"go.mod":         "module example.com/tiny\n\ngo 1.24\n\nrequire example.com/server v1.2.3\n\nreplace example.com/server => ./server\n",
		"server/go.mod":  "module example.com/server\n",
		"server/main.go": "package server\n",
		"main.go":        program,
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(pkg)
	t.Setenv("KV_TEST_CACHE", filepath.Join(root, "cache"))
	t.Setenv("KV_TEST_ETCD_BIN", "")
	t.Setenv("KV_TEST_REQUIRE", "etcd")
	return goServer{store: Etcd, module: "example.com/server", pkg: "."}
}

func TestBuildOnce(t *testing.T) {
	g := fakeSource(t, "package main\n\nfunc main() { println(\"tiny\") }\n")
	var wg sync.WaitGroup
	bins := make([]string, 3)
	for i := range bins {
		wg.Go(func() {
			argv, err := build(t.Context(), g)
			if err != nil {
				t.Error(err)
				return
			}
			bins[i] = argv[0]
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if filepath.Base(bins[0]) != "etcd-v1.2.3" || bins[1] != bins[0] || bins[2] != bins[0] {
		t.Errorf("built %q", bins)
	}
	if out, err := exec.Command(bins[0]).CombinedOutput(); err != nil || string(out) != "tiny\n" {
		t.Errorf("%q, %v", out, err)
	}
	// From now on the source is not looked at.
	source, err := findSource(Etcd)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(source, "main.go")); err != nil {
		t.Fatal(err)
	}
	if _, err := build(t.Context(), g); err != nil {
		t.Errorf("built before, and now: %v", err)
	}
}

// A test that may do without a server does not wait for its build.
func TestBuildOnlyWhatIsRequired(t *testing.T) {
	g := fakeSource(t, "package main\n\nfunc main() {}\n")
	t.Setenv("KV_TEST_REQUIRE", "redis")
	if argv, err := build(t.Context(), g); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %q, %v", argv, err)
	}
}

func TestBuildFailureSaysWhy(t *testing.T) {
	g := fakeSource(t, "package main\n\nfunc main() { undefined() }\n")
	_, err := build(t.Context(), g)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("got %v", err)
	}
}

func TestBinaryFromEnvironment(t *testing.T) {
	g := fakeSource(t, "package main\n\nfunc main() {}\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KV_TEST_ETCD_BIN", self)
	if argv, err := build(t.Context(), g); err != nil || argv[0] != self {
		t.Errorf("got %v, %v", argv, err)
	}
	t.Setenv("KV_TEST_ETCD_BIN", filepath.Join(t.TempDir(), "absent"))
	if _, err := build(t.Context(), g); !errors.Is(err, ErrUnavailable) {
		t.Errorf("absent binary: %v", err)
	}
}

func TestOutsideOfRepository(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := findSource(Etcd); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestTools(t *testing.T) {
	for _, store := range Stores() {
		argv := Tool(t, store)
		if len(argv) == 0 || !filepath.IsAbs(argv[0]) || !exists(argv[0]) {
			t.Errorf("%s: %q", store, argv)
		}
	}
	if _, err := InstallTool(t.Context(), "none"); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("the tool of no store: %v", err)
	}
	t.Setenv("KV_TEST_ETCDCTL_BIN", filepath.Join(t.TempDir(), "absent"))
	if _, err := InstallTool(t.Context(), Etcd); !errors.Is(err, ErrUnavailable) {
		t.Errorf("absent binary: %v", err)
	}
}
