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

type redis struct{}

func (redis) find(context.Context) ([]string, error) {
	name := os.Getenv("KV_TEST_REDIS_BIN")
	if name == "" {
		name = "redis-server"
	}
	bin, err := exec.LookPath(name)
	if err != nil {
		return nil, unavailable("Redis is not installed (Debian: apt-get install redis-server): %w", err)
	}
	return []string{bin}, nil
}

func (redis) nodes(spec Spec) (n, ports int) {
	switch {
	case spec.Cluster:
		return redisGroup, 2
	case spec.Sentinel:
		return redisGroup, 1
	}
	return 1, 1
}

func (redis) clients(c *cluster) []string {
	addrs := c.allClients()
	if c.spec.Sentinel {
		return addrs[redisGroup/2:] // clients ask the sentinels for the rest
	}
	return addrs
}

func (redis) configure(c *cluster, i int) ([]string, error) {
	if isSentinel(c, i) {
		return configureSentinel(c, i)
	}
	m := &c.members[i]
	lines := append([]string{fmt.Sprintf("dir %q", m.dir)}, redisPort(c, i)...)
	if c.spec.Persist {
		// Not the default appendfsync, everysec: while a sync is under way that holds writes back for up to two seconds, and a
		// kill loses them though they were acknowledged.
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	if c.spec.Auth {
		// Brackets are a hash tag of Redis Cluster. Neither CONFIG nor INFO nor KEYS is left to the limited user.
		keys := strings.ReplaceAll("~X* ~/X* ~{X* ~{/X* &X* &{X* &__keyspace@*__:*X*", "X", LimitedRoot)
		lines = append(lines,
			"requirepass "+c.admin.Password, // for clients that know no user names
			fmt.Sprintf("user %s on >%s ~* &* +@all", c.admin.User, c.admin.Password),
			fmt.Sprintf("user %s on >%s resetchannels %s +@all -@admin -@dangerous", c.limited.User, c.limited.Password, keys))
	}
	lines = append(lines, groupSettings(c, i)...)
	file := filepath.Join(m.dir, "redis.conf")
	return []string{file}, writeLines(file, append(lines, c.spec.Config...))
}

// redisPort returns the settings by which node i, a Redis server or a sentinel, listens.
func redisPort(c *cluster, i int) []string {
	listen, port := c.listenAt(i), c.members[i].ports[0]
	bind := []string{"bind " + listen}
	if listen != loopbackHost {
		bind = append(bind, "protected-mode no") // or it answers loopback only
	}
	if c.pki == nil {
		return append(bind, fmt.Sprintf("port %d", port))
	}
	return append(bind,
		"port 0", fmt.Sprintf("tls-port %d", port), "tls-ca-cert-file "+c.pki.ca,
		"tls-cert-file "+c.pki.server, "tls-key-file "+c.pki.serverKey,
	)
}

var redisVersion = regexp.MustCompile(`(?m)^redis_version:([0-9.]+)`)

// probe reads INFO; a server that still loads its data refuses PING and answers INFO, so both are sent.
func (redis) probe(ctx context.Context, c *cluster, i int) (string, error) {
	answer, err := askRedis(ctx, c, i, redisLogin(c)+"PING\r\nINFO server\r\n")
	if err != nil {
		return "", err
	}
	version := redisVersion.FindSubmatch(answer)
	if !strings.Contains("\n"+string(answer), "\n+PONG") || version == nil {
		first, _, _ := strings.Cut(string(answer), "\r\n")
		return "", errors.New("not serving: " + first)
	}
	return string(version[1]), nil
}

func redisLogin(c *cluster) string {
	if !c.spec.Auth {
		return ""
	}
	return "AUTH " + c.admin.User + " " + c.admin.Password + "\r\n"
}

func (redis) setUp(ctx context.Context, c *cluster) error {
	switch {
	case c.spec.Sentinel:
		return setUpSentinel(ctx, c)
	case c.spec.Cluster:
		return setUpCluster(ctx, c)
	}
	return nil
}
