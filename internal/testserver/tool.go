package testserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// InstallTool returns the command that runs a store's own command-line tool, the one that operators type into: etcdctl,
// consul, zkCli (whose script does nothing but start this command) and redis-cli. What the server is built from builds the
// tool. An error that matches ErrUnavailable says what is missing.
func InstallTool(ctx context.Context, store Store) (argv []string, err error) {
	switch store {
	case Etcd:
		return build(ctx, goServer{store: Etcd, binary: "etcdctl", module: "go.etcd.io/etcd/etcdctl/v3", pkg: "go.etcd.io/etcd/etcdctl/v3"})
	case Consul:
		return build(ctx, consulBuild)
	case ZooKeeper:
		argv, err := zookeeper{}.java()
		if err != nil {
			return nil, err
		}
		// Whatever the locale, what is read and printed is UTF-8.
		return append(argv, "-Dfile.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8",
			"org.apache.zookeeper.ZooKeeperMain"), nil
	case Redis:
		bin, err := exec.LookPath("redis-cli")
		if err != nil {
			return nil, unavailable("redis-cli is not installed (Debian: apt-get install redis-tools): %w", err)
		}
		return []string{bin}, nil
	}
	return nil, fmt.Errorf("testserver: no such store: %q", store)
}

// Tool is InstallTool for a test, which is skipped, or fails if KV_TEST_REQUIRE names the store, where the tool cannot be
// had.
func Tool(t testing.TB, store Store) (argv []string) {
	t.Helper()
	refuseShort(t, store)
	err := unavailable("KV_TEST_PROVIDER is none")
	if os.Getenv("KV_TEST_PROVIDER") != "none" {
		argv, err = InstallTool(t.Context(), store)
	}
	resolve(t, store, err)
	return argv
}
