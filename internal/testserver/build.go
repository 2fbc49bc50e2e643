package testserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A goServer is a server built from a module below integration/servers, which pins its version.
type goServer struct {
	store  Store
	binary string // its name, if that is not the store's
	module string // whose version names the binary
	pkg    string // to build
}

// build returns the command of the server, building it if this machine has not done so before. Processes that need it at
// the same time build it once. A test only builds what the environment requires, or go test would be silent for minutes
// and then run out of time.
func build(ctx context.Context, g goServer) ([]string, error) {
	name := cmp.Or(g.binary, string(g.store))
	if given := os.Getenv("KV_TEST_" + strings.ToUpper(name) + "_BIN"); given != "" {
		bin, err := exec.LookPath(given)
		if err != nil {
			return nil, unavailable("%s: %w", name, err)
		}
		return []string{bin}, nil
	}
	source, err := findSource(g.store)
	if err != nil {
		return nil, err
	}
	version, err := pinnedVersion(source, g.module)
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, name+"-"+version)
	if exists(bin) {
		return []string{bin}, nil
	}
	if must, err := Required(g.store); testing.Testing() && !must {
		return nil, cmp.Or(err, unavailable("%s is not built yet, which takes minutes: run go run ./internal/testserver/install "+
			"in the repository, or name it in KV_TEST_REQUIRE", name))
	}
	unlock, err := lockPath(ctx, bin+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !exists(bin) { // another process may have built it meanwhile
		fmt.Fprintf(os.Stderr, "testserver: building %s %s, once for this machine\n", name, version)
		if err := compile(ctx, source, g.pkg, bin); err != nil {
			return nil, err
		}
	}
	return []string{bin}, nil
}

func compile(ctx context.Context, dir, pkg, bin string) error {
	tool, err := exec.LookPath("go")
	if err != nil {
		return unavailable("cannot build %s: %w", filepath.Base(bin), err)
	}
	part := bin + ".part"
	cmd := exec.CommandContext(ctx, tool, "build", "-ldflags=-s -w", "-o", part, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.WaitDelay = time.Second // the compilers may hold the pipe after go was killed
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build of %s: %w", filepath.Base(bin), context.Cause(ctx))
		}
		return unavailable("build of %s: %w\n%s", filepath.Base(bin), err, lastLines(string(out), 10))
	}
	return os.Rename(part, bin)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// findSource looks upwards from the working directory, which in a test is the package's, for the repository.
func findSource(store Store) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		source := filepath.Join(dir, "integration", "servers", string(store))
		if exists(filepath.Join(source, "go.mod")) {
			return source, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", unavailable("%s is built from the repository, and this is no working copy of it", store)
		}
		dir = parent
	}
}

func pinnedVersion(dir, module string) (string, error) {
	file := filepath.Join(dir, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	require := regexp.MustCompile(`(?m)^(?:require)?\s+` + regexp.QuoteMeta(module) + ` (v\S+)`)
	m := require.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s does not require %s", file, module)
	}
	return string(m[1]), nil
}

func cacheDir() (string, error) {
	dir := os.Getenv("KV_TEST_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", unavailable("set KV_TEST_CACHE: %w", err)
		}
		dir = filepath.Join(user, "kv-test")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lockPath waits until no other process has the lock.
func lockPath(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		ok, err := tryLock(f)
		if ok {
			return func() { _ = f.Close() }, nil // the lock goes with it
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = context.Cause(ctx)
			case <-time.After(200 * time.Millisecond):
				continue
			}
		}
		return nil, errors.Join(err, f.Close())
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
