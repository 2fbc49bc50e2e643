package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

type zookeeper struct{}

// Where Debian keeps ZooKeeper, and a logger that writes to standard error: its package brings none.
const (
	debianZooKeeper = "/usr/share/java/zookeeper.jar"
	debianLogger    = "/usr/share/java/slf4j-simple.jar"
)

func (zookeeper) find(context.Context) ([]string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, unavailable("ZooKeeper needs Java: %w", err)
	}
	jars := os.Getenv("KV_TEST_ZOOKEEPER_CLASSPATH")
	if jars == "" {
		if _, err := os.Stat(debianZooKeeper); err != nil {
			return nil, unavailable("ZooKeeper is not installed (Debian: apt-get install zookeeper): %w", err)
		}
		jars = strings.Join([]string{debianZooKeeper, debianLogger}, string(filepath.ListSeparator))
	}
	return []string{java, "-XX:+UseSerialGC", "-Xmx512m", "-cp", jars}, nil
}

func (zookeeper) ports() int { return 1 }

// The settings of the sample file that the distribution ships; a server refuses to run without most of them.
func (zookeeper) configure(m *member, spec Spec) ([]string, error) {
	lines := append([]string{
		"tickTime=2000",
		"initLimit=10",
		"syncLimit=5",
		"dataDir=" + filepath.Join(m.dir, "data"),
		"clientPortAddress=127.0.0.1",
		fmt.Sprintf("clientPort=%d", m.ports[0]),
		"admin.enableServer=false",
	}, spec.Config...)
	file := filepath.Join(m.dir, "zoo.cfg")
	return []string{"org.apache.zookeeper.server.quorum.QuorumPeerMain", file}, writeLines(file, lines)
}

var (
	zooVersion = regexp.MustCompile(`(?m)^Zookeeper version: ([0-9.]+)`)
	zooMode    = regexp.MustCompile(`(?m)^Mode: (\w+)`)
)

// probe sends srvr, the one four-letter word that servers answer by default. The answer has a mode once requests are
// served.
func (zookeeper) probe(ctx context.Context, addr string) (string, error) {
	answer, err := ask(ctx, addr, "srvr")
	if err != nil {
		return "", err
	}
	version := zooVersion.FindSubmatch(answer)
	if version == nil || !zooMode.Match(answer) {
		return "", errors.New("not serving: " + strings.TrimSpace(string(answer)))
	}
	return string(version[1]), nil
}
