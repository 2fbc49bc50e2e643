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

const debianJars = "/usr/share/java"

// Debian's zookeeper.jar names the other jars that it needs, save a logger that writes to standard error and what its
// Netty needs to speak TLS.
var debianZooKeeper = []string{
	"zookeeper.jar", "slf4j-simple.jar", "netty-codec.jar", "netty-resolver.jar", "netty-transport-native-unix-common.jar",
}

func (z zookeeper) find(context.Context) ([]string, error) {
	argv, err := z.java()
	return append(argv, "org.apache.zookeeper.server.quorum.QuorumPeerMain"), err
}

// java returns the command that runs any class of ZooKeeper's.
func (zookeeper) java() ([]string, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, unavailable("ZooKeeper needs Java: %w", err)
	}
	jars := os.Getenv("KV_TEST_ZOOKEEPER_CLASSPATH")
	if jars == "" {
		var paths []string
		for _, jar := range debianZooKeeper {
			paths = append(paths, filepath.Join(debianJars, jar))
		}
		if _, err := os.Stat(paths[0]); err != nil {
			return nil, unavailable("ZooKeeper is not installed (Debian: apt-get install zookeeper): %w", err)
		}
		jars = strings.Join(paths, string(filepath.ListSeparator))
	}
	return []string{java, "-XX:+UseSerialGC", "-Xmx512m", "-cp", jars}, nil
}

func (zookeeper) nodes(spec Spec) (n, ports int) {
	if spec.Nodes > 1 {
		return spec.Nodes, 3
	}
	return 1, 1
}

func (zookeeper) clients(c *cluster) []string { return c.allClients() }

// The settings of the sample file that the distribution ships; a server refuses to run without most of them.
func (zookeeper) configure(c *cluster, i int) ([]string, error) {
	m := &c.members[i]
	data := filepath.Join(m.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	lines := []string{
		"tickTime=2000",
		"initLimit=10",
		"syncLimit=5",
		"dataDir=" + data,
		"admin.enableServer=false",
	}
	if c.pki == nil {
		lines = append(lines, "clientPortAddress="+c.listenAt(i), fmt.Sprintf("clientPort=%d", m.ports[0]))
	} else {
		lines = append(lines, "secureClientPortAddress="+c.listen, fmt.Sprintf("secureClientPort=%d", m.ports[0]),
			"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
			"ssl.keyStore.location="+c.pki.serverBoth, "ssl.trustStore.location="+c.pki.ca, // PEM, as their names tell
			"ssl.clientAuth=need")
	}
	if len(c.members) > 1 {
		for j := range c.members {
			peer := &c.members[j]
			lines = append(lines, fmt.Sprintf("server.%d=%s:%d:%d", j+1, peer.host, peer.ports[1], peer.ports[2]))
		}
		if err := writeLines(filepath.Join(data, "myid"), []string{fmt.Sprint(i + 1)}); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(m.dir, "zoo.cfg")
	return []string{file}, writeLines(file, append(lines, c.spec.Config...))
}

var (
	zooVersion = regexp.MustCompile(`(?m)^Zookeeper version: ([0-9.]+)`)
	zooMode    = regexp.MustCompile(`(?m)^Mode: (\w+)`)
)

// logHeader is how many bytes a transaction log begins with.
const logHeader = 16

// mend removes a log in which there is nothing yet, not even its header: a server that was killed when it had just made
// the file does not start on it, with an EOFException.
func (zookeeper) mend(m *member) error {
	logs, err := filepath.Glob(filepath.Join(m.dir, "data", "version-2", "log.*"))
	for _, log := range logs {
		if info, e := os.Stat(log); e == nil && info.Size() < logHeader {
			err = errors.Join(err, os.Remove(log))
		}
	}
	return err
}

// probe sends srvr, the one four-letter word that servers answer by default. The answer has a mode once requests are
// served.
func (zookeeper) probe(ctx context.Context, c *cluster, i int) (string, error) {
	answer, err := c.ask(ctx, c.client(i), "srvr")
	if err != nil {
		return "", err
	}
	version := zooVersion.FindSubmatch(answer)
	if version == nil || !zooMode.Match(answer) {
		return "", errors.New("not serving: " + strings.TrimSpace(string(answer)))
	}
	return string(version[1]), nil
}

// setUp makes a node for each user and then takes the right to make others from everybody but the first.
func (zookeeper) setUp(ctx context.Context, c *cluster) error {
	if !c.spec.Auth {
		return nil
	}
	s, err := openZooSession(ctx, c, c.client(0))
	if err != nil {
		return err
	}
	defer s.close()
	return errors.Join(
		s.authenticate(c.admin),
		s.create("/"+LimitedRoot, c.admin, c.limited),
		s.create("/"+ForbiddenRoot, c.admin),
		s.setACL("/", c.admin),
	)
}
