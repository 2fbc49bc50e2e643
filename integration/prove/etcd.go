package prove

import (
	"context"

	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/internal/testserver"
)

// Etcd is a single etcd.
func Etcd(ctx context.Context) (*Target, error) {
	t, err := start(ctx, "etcd", testserver.Spec{Store: testserver.Etcd})
	if err != nil {
		return nil, err
	}
	t.open = byURL(etcdkv.Driver{}, "etcd", nil, nil)
	t.Faults = append(networkFaults(), hasty(), kill("kill", anyNode(1)), pause("pause", pauseOfServer, anyNode(1)))
	return t, nil
}
