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

func (redis) ports() int { return 1 }

func (redis) configure(m *member, spec Spec) ([]string, error) {
	lines := []string{
		"bind 127.0.0.1",
		fmt.Sprintf("port %d", m.ports[0]),
		fmt.Sprintf("dir %q", m.dir),
	}
	if spec.Persist {
		// The default appendfsync, everysec, is enough: Redis hands each write to the kernel before it answers, so only a
		// crash of the machine could lose one.
		lines = append(lines, "appendonly yes")
	}
	file := filepath.Join(m.dir, "redis.conf")
	return []string{file}, writeLines(file, append(lines, spec.Config...))
}

var redisVersion = regexp.MustCompile(`(?m)^redis_version:([0-9.]+)`)

// probe reads INFO; a server that still loads its data refuses PING and answers INFO, so both are sent.
func (redis) probe(ctx context.Context, addr string) (string, error) {
	answer, err := ask(ctx, addr, "PING\r\nINFO server\r\nQUIT\r\n")
	if err != nil {
		return "", err
	}
	version := redisVersion.FindSubmatch(answer)
	if !strings.HasPrefix(string(answer), "+PONG") || version == nil {
		first, _, _ := strings.Cut(string(answer), "\r\n")
		return "", errors.New("not serving: " + first)
	}
	return string(version[1]), nil
}
