package testserver

import (
	"context"
	"errors"
	"path/filepath"
)

type etcd struct{}

func (etcd) find(ctx context.Context) ([]string, error) {
	return build(ctx, goServer{store: Etcd, module: "go.etcd.io/etcd/server/v3", pkg: "."})
}

func (etcd) ports() int { return 2 }

func (etcd) configure(m *member, spec Spec) ([]string, error) {
	client, peer := "http://"+m.addr(0), "http://"+m.addr(1)
	args := []string{
		"--name=node0", "--data-dir=" + filepath.Join(m.dir, "data"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=node0=" + peer,
	}
	return append(args, spec.Config...), nil
}

// probe asks /health, which makes a linearizable read and so needs a leader.
func (etcd) probe(ctx context.Context, addr string) (string, error) {
	var health struct{ Health, Reason string }
	if err := getJSON(ctx, "http://"+addr+"/health", &health); err != nil {
		return "", err
	}
	if health.Health != "true" {
		return "", errors.New("unhealthy: " + health.Reason)
	}
	var version struct {
		Server string `json:"etcdserver"`
	}
	err := getJSON(ctx, "http://"+addr+"/version", &version)
	return version.Server, err
}
