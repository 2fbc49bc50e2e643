package testserver

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

type etcd struct{}

func (etcd) find(ctx context.Context) ([]string, error) {
	return build(ctx, goServer{store: Etcd, module: "go.etcd.io/etcd/server/v3", pkg: "."})
}

func (etcd) nodes(spec Spec) (n, ports int) { return max(spec.Nodes, 1), 2 }

func (etcd) clients(c *cluster) []string { return c.allClients() }

func (etcd) configure(c *cluster, i int) ([]string, error) {
	m := &c.members[i]
	scheme, peer := "http://", "http://"+m.peer(1)
	var security []string
	if c.pki != nil {
		scheme = "https://"
		security = []string{
			"--cert-file=" + c.pki.server, "--key-file=" + c.pki.serverKey,
			"--trusted-ca-file=" + c.pki.ca, "--client-cert-auth",
		}
	}
	var cluster []string
	for i := range c.members {
		cluster = append(cluster, c.members[i].name+"=http://"+c.members[i].peer(1))
	}
	args := []string{
		"--name=" + m.name, "--data-dir=" + filepath.Join(m.dir, "data"),
		"--listen-client-urls=" + scheme + net.JoinHostPort(c.listenAt(i), strconv.Itoa(m.ports[0])),
		"--advertise-client-urls=" + scheme + m.peer(0),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(cluster, ","),
	}
	return append(append(args, security...), c.spec.Config...), nil
}

// probe asks /health, which makes a linearizable read and so needs a leader.
func (etcd) probe(ctx context.Context, c *cluster, i int) (string, error) {
	addr := c.client(i)
	var health struct{ Health, Reason string }
	if err := c.call(ctx, http.MethodGet, addr, "/health", "", nil, &health); err != nil {
		return "", err
	}
	if health.Health != "true" {
		return "", errors.New("unhealthy: " + health.Reason)
	}
	var version struct {
		Server string `json:"etcdserver"`
	}
	err := c.call(ctx, http.MethodGet, addr, "/version", "", nil, &version)
	return version.Server, err
}

// setUp makes the users through the JSON gateway and then switches authentication on.
func (etcd) setUp(ctx context.Context, c *cluster) error {
	if !c.spec.Auth {
		return nil
	}
	type object map[string]any
	type request struct {
		path string
		body object
	}
	requests := []request{
		{"user/add", object{"name": c.admin.User, "password": c.admin.Password}},
		{"user/grant", object{"user": c.admin.User, "role": "root"}}, // the role that may do everything is always there
		{"user/add", object{"name": c.limited.User, "password": c.limited.Password}},
		{"role/add", object{"name": "limited"}},
		{"user/grant", object{"user": c.limited.User, "role": "limited"}},
	}
	for _, prefix := range []string{LimitedRoot, "/" + LimitedRoot} {
		end := prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
		requests = append(requests, request{"role/grant", object{"name": "limited", "perm": object{
			"permType": "READWRITE", "key": base64Text(prefix), "range_end": base64Text(end),
		}}})
	}
	requests = append(requests, request{"enable", object{}})
	for _, r := range requests {
		if err := c.call(ctx, http.MethodPost, c.client(0), "/v3/auth/"+r.path, "", r.body, nil); err != nil {
			return err
		}
	}
	return nil
}

func base64Text(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
