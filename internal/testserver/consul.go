package testserver

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

type consul struct{}

// consulBuild is the server and the tool in one.
var consulBuild = goServer{store: Consul, module: "github.com/hashicorp/consul", pkg: "github.com/hashicorp/consul"}

func (consul) find(ctx context.Context) ([]string, error) {
	argv, err := build(ctx, consulBuild)
	if err != nil {
		return nil, err
	}
	return append(argv, "agent"), nil
}

func (consul) nodes(spec Spec) (n, ports int) { return max(spec.Nodes, 1), 3 }

func (consul) clients(c *cluster) []string { return c.allClients() }

func (consul) configure(c *cluster, i int) ([]string, error) {
	m := &c.members[i]
	listen := fmt.Sprintf("http = %d", m.ports[0])
	var security, join []string
	if c.pki != nil {
		listen = fmt.Sprintf("http = -1, https = %d", m.ports[0])
		security = append(security,
			fmt.Sprintf(`tls { https { ca_file = %q, cert_file = %q, key_file = %q, verify_incoming = true } }`,
				c.pki.ca, c.pki.server, c.pki.serverKey))
	}
	if c.spec.Auth {
		security = append(security,
			fmt.Sprintf(`acl { enabled = true, default_policy = "deny", tokens { initial_management = %q, agent = %q } }`,
				c.admin.Token, c.admin.Token))
	}
	for j := range c.members {
		if j != i {
			join = append(join, c.members[j].peer(1))
		}
	}
	if join != nil {
		security = append(security, fmt.Sprintf(`retry_join = ["%s"]`, strings.Join(join, `", "`)), `retry_interval = "1s"`)
	}
	lines := append([]string{
		`server           = true`,
		fmt.Sprintf(`bootstrap_expect = %d`, len(c.members)),
		fmt.Sprintf(`node_name = %q`, m.name),
		fmt.Sprintf(`bind_addr = %q`, m.host),
		fmt.Sprintf(`client_addr = %q`, c.listenAt(i)),
		fmt.Sprintf(`data_dir = %q`, filepath.Join(m.dir, "data")),
		`disable_update_check = true`,
		fmt.Sprintf(`ports { %s, serf_lan = %d, server = %d, serf_wan = -1, dns = -1, grpc = -1, grpc_tls = -1 }`,
			listen, m.ports[1], m.ports[2]),
	}, security...)
	file := filepath.Join(m.dir, "consul.hcl")
	return []string{"-config-file=" + file}, writeLines(file, append(lines, c.spec.Config...))
}

// probe makes a consistent read of the catalog, which answers once a leader has settled and has been confirmed by a
// majority, and waits until the catalog holds every node: no session can be created before.
func (consul) probe(ctx context.Context, c *cluster, i int) (string, error) {
	addr := c.client(i)
	var self struct {
		Config struct{ NodeName, Version string }
	}
	if err := c.call(ctx, http.MethodGet, addr, "/v1/agent/self", c.admin.Token, nil, &self); err != nil {
		return "", err
	}
	var nodes []struct{ Node string }
	if err := c.call(ctx, http.MethodGet, addr, "/v1/catalog/nodes?consistent", c.admin.Token, nil, &nodes); err != nil {
		return "", err
	}
	known := make(map[string]bool)
	for _, n := range nodes {
		known[n.Node] = true
	}
	for _, m := range c.members {
		if name := cmp.Or(m.name, self.Config.NodeName); !known[name] {
			return "", fmt.Errorf("the catalog does not hold %s yet", name)
		}
	}
	return self.Config.Version, nil
}

// setUp makes the limited user's token. Beside its keys it may have sessions, which locks need.
func (consul) setUp(ctx context.Context, c *cluster) error {
	if !c.spec.Auth {
		return nil
	}
	type object map[string]any
	rules := fmt.Sprintf(`key_prefix %q { policy = "write" } session_prefix "" { policy = "write" }`, LimitedRoot)
	for _, r := range []struct {
		path string
		body object
	}{
		{"/v1/acl/policy", object{"Name": "limited", "Rules": rules}},
		{"/v1/acl/token", object{"SecretID": c.limited.Token, "Policies": []object{{"Name": "limited"}}}},
	} {
		if err := c.call(ctx, http.MethodPut, c.client(0), r.path, c.admin.Token, r.body, nil); err != nil {
			return err
		}
	}
	return nil
}

func writeLines(file string, lines []string) error {
	return os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}
