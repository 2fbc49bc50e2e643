package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

type consul struct{}

func (consul) find(ctx context.Context) ([]string, error) {
	argv, err := build(ctx, goServer{store: Consul, module: "github.com/hashicorp/consul", pkg: "github.com/hashicorp/consul"})
	if err != nil {
		return nil, err
	}
	return append(argv, "agent"), nil
}

func (consul) ports() int { return 3 }

func (consul) configure(m *member, spec Spec) ([]string, error) {
	lines := append([]string{
		`server           = true`,
		`bootstrap_expect = 1`,
		`node_name        = "node0"`,
		`bind_addr        = "127.0.0.1"`,
		fmt.Sprintf(`data_dir = %q`, filepath.Join(m.dir, "data")),
		`disable_update_check = true`,
		fmt.Sprintf(`ports { http = %d, serf_lan = %d, server = %d, serf_wan = -1, dns = -1, grpc = -1, grpc_tls = -1 }`,
			m.ports[0], m.ports[1], m.ports[2]),
	}, spec.Config...)
	file := filepath.Join(m.dir, "consul.hcl")
	return []string{"-config-file=" + file}, writeLines(file, lines)
}

// probe makes a consistent read of the catalog, which answers once a leader has settled and has been confirmed by a
// majority, and waits until the catalog holds the agent itself: no session can be created before.
func (consul) probe(ctx context.Context, addr string) (string, error) {
	var self struct {
		Config struct{ NodeName, Version string }
	}
	if err := getJSON(ctx, "http://"+addr+"/v1/agent/self", &self); err != nil {
		return "", err
	}
	var nodes []struct{ Node string }
	if err := getJSON(ctx, "http://"+addr+"/v1/catalog/nodes?consistent", &nodes); err != nil {
		return "", err
	}
	for _, n := range nodes {
		if n.Node == self.Config.NodeName {
			return self.Config.Version, nil
		}
	}
	return "", errors.New("the catalog does not hold the agent yet")
}

func writeLines(file string, lines []string) error {
	return os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}
