package prove

import (
	"context"
	"os"
	"strconv"
	"testing"
)

func tryAll(t *testing.T, open func(context.Context) (*Target, error)) {
	target, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	for i, f := range target.Faults {
		t.Run(f.Name, func(t *testing.T) {
			r := &Round{Target: target, Fault: f, Seed: seed + uint64(i) + 1, Ops: 1500, Cycles: 2, Dir: "/tmp/prove-pics"}
			res, err := r.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", res)
			if len(res.Violations) > 0 {
				t.Errorf("%v", res.Violations)
			}
		})
	}
}

func TestTry(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(context.Context) (*Target, error)
	}{
		{"memory", Memory}, {"bolt", Bolt},
		{"etcd", func(ctx context.Context) (*Target, error) { return Etcd(ctx, 1) }},
		{"etcd3", func(ctx context.Context) (*Target, error) { return Etcd(ctx, 3) }},
		{"consul", func(ctx context.Context) (*Target, error) { return Consul(ctx, 1) }},
		{"consul3", func(ctx context.Context) (*Target, error) { return Consul(ctx, 3) }},
		{"zk", func(ctx context.Context) (*Target, error) { return ZooKeeper(ctx, 1) }},
		{"zk3", func(ctx context.Context) (*Target, error) { return ZooKeeper(ctx, 3) }},
		{"redis", Redis}, {"sentinel", RedisSentinel}, {"rcluster", RedisCluster},
	} {
		t.Run(tt.name, func(t *testing.T) { tryAll(t, tt.open) })
	}
}
