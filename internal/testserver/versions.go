package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// InstallVersion returns the command that runs another version of a server than the tests use, building or fetching it
// first if this machine has not done so before. There are, of etcd, the versions of its Go module ("v3.5.35") and Debian's
// package ("debian"), which is fetched and unpacked but not installed, for its installation would start a service. An error
// that matches ErrUnavailable says what is missing.
func InstallVersion(ctx context.Context, store Store, version string) (argv []string, err error) {
	if store != Etcd {
		return nil, unavailable("there is one version of %s", store)
	}
	if err := localAllowed(); err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, string(store)+"-"+version)
	if exists(bin) {
		return []string{bin}, nil
	}
	unlock, err := lockPath(ctx, bin+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if exists(bin) { // another process has been faster
		return []string{bin}, nil
	}
	fmt.Fprintf(os.Stderr, "testserver: getting %s %s, once for this machine\n", store, version)
	work, err := os.MkdirTemp(cache, "get-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if version == "debian" {
		err = fetchDebian(ctx, work, "etcd-server", "usr/bin/etcd", bin)
	} else {
		err = buildEtcd(ctx, work, version, bin)
	}
	if err != nil {
		return nil, err
	}
	return []string{bin}, nil
}

// fetchDebian takes one file out of a package.
func fetchDebian(ctx context.Context, work, pkg, file, bin string) error {
	if err := runTool(ctx, work, "apt-get", "download", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return unavailable("apt-get has downloaded %q, not one package (%v)", debs, err)
	}
	if err := runTool(ctx, work, "dpkg", "-x", debs[0], "."); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, file), bin)
}

// buildEtcd builds etcd from a module of its own, whose requirements are etcd's.
func buildEtcd(ctx context.Context, work, version, bin string) error {
	source, err := findSource(Etcd)
	if err != nil {
		return err
	}
	main, err := os.ReadFile(filepath.Join(source, "main.go"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "main.go"), main, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mod", "init", "server"},
		{"get", "go.etcd.io/etcd/server/v3/etcdmain@" + version},
	} {
		if err := runTool(ctx, work, "go", args...); err != nil {
			return err
		}
	}
	return compile(ctx, work, ".", bin)
}

func runTool(ctx context.Context, dir, name string, args ...string) error {
	tool, err := exec.LookPath(name)
	if err != nil {
		return unavailable("%w", err)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		return unavailable("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(string(out), 10))
	}
	return nil
}

// LaunchCommand is Launch with another command that runs such a server, as InstallVersion returns it.
func LaunchCommand(ctx context.Context, spec Spec, argv []string) (*Server, error) {
	if err := localAllowed(); err != nil {
		return nil, err
	}
	return LaunchIn(ctx, spec, func() (Engine, error) { return &local{argv: argv}, nil })
}
