package prove

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/rediskv"
	"github.com/polykv/kv/internal/testserver"
)

// redisExpiry is when the leases of locks have expired.
const redisExpiry = 2 * time.Second

// Redis is a single server, which writes to disk before it answers.
func Redis(ctx context.Context) (*Target, error) {
	t, err := start(ctx, "redis", testserver.Spec{Store: testserver.Redis, Persist: true})
	if err != nil {
		return nil, err
	}
	a := newRedisAdmin(t)
	t.open = byURL(rediskv.Driver{}, "redis", nil)
	t.usage = func(ctx context.Context) (map[string]int, error) { return a.usage(ctx, t.addrs[0]) }
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults, kill("kill", anyNode(1)), pause("pause", pauseOfServer, anyNode(1)), expiry(redisExpiry))
	return t, nil
}

// RedisSentinel is a primary with two replicas, watched by three sentinels.
func RedisSentinel(ctx context.Context) (*Target, error) {
	t, err := startApart(ctx, "redis, sentinel", testserver.Spec{Store: testserver.Redis, Persist: true, Sentinel: true})
	if err != nil {
		return nil, err
	}
	a := newRedisAdmin(t)
	t.open = func(_ context.Context, n *network) (*kv.Store, func() error, error) {
		o := redis.FailoverOptions{
			MasterName: testserver.SentinelMaster, SentinelAddrs: t.addrs, Dialer: n.dial,
			MaxRetries: -1, DialerRetries: 1, DialTimeout: 5 * time.Second, ContextTimeoutEnabled: true,
		}
		c := redis.NewFailoverClient(&o)
		return kv.New(rediskv.New(c, rediskv.Options{Root: root})), c.Close, nil
	}
	t.usage = func(ctx context.Context) (map[string]int, error) {
		node, err := a.primary(ctx, nil)
		if err != nil {
			return nil, err
		}
		return a.usage(ctx, t.server.NodeAddr(node[0]))
	}
	t.find = a.findLostWrite
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults,
		kill("kill a replica", a.replica), pause("pause a replica", pauseOfServer, a.replica), partition("partition a replica", partitionOfNode, a.replica),
		kill("kill a sentinel", a.sentinel), expiry(redisExpiry), a.failoverOnRequest(),
		failover(kill("failover after a kill", a.primary), a),
		failover(pause("failover after a pause", [2]time.Duration{}, a.primary), a),
		failover(partition("partition the primary", [2]time.Duration{}, a.primary), a),
	)
	return t, nil
}

// RedisCluster is a Redis Cluster of three primaries and three replicas.
func RedisCluster(ctx context.Context) (*Target, error) {
	t, err := startApart(ctx, "redis, cluster", testserver.Spec{Store: testserver.Redis, Persist: true, Cluster: true})
	if err != nil {
		return nil, err
	}
	a := newRedisAdmin(t)
	a.cluster = true
	t.open = func(_ context.Context, n *network) (*kv.Store, func() error, error) {
		o := redis.ClusterOptions{
			Addrs: t.addrs, Dialer: n.dial,
			MaxRetries: -1, DialerRetries: 1, DialTimeout: 5 * time.Second, ContextTimeoutEnabled: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}
		c := redis.NewClusterClient(&o)
		return kv.New(rediskv.New(c, rediskv.Options{Root: root})), c.Close, nil
	}
	t.usage = func(ctx context.Context) (map[string]int, error) {
		node, err := a.primary(ctx, nil)
		if err != nil {
			return nil, err
		}
		return a.usage(ctx, t.server.NodeAddr(node[0]))
	}
	t.find = a.findLostWrite
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults,
		kill("kill a replica", a.replica), pause("pause a replica", pauseOfServer, a.replica), partition("partition a replica", partitionOfNode, a.replica),
		expiry(redisExpiry),
		a.handover(),
		failover(kill("failover after a kill", a.primary), a),
		failover(pause("failover after a pause", [2]time.Duration{}, a.primary), a),
		failover(partition("partition the primary", [2]time.Duration{}, a.primary), a),
	)
	return t, nil
}

// failover is a fault of the primary that is long enough for another one to take its place.
func failover(f Fault, a *redisAdmin) Fault {
	f.Exempt = exemptAll
	f.Hold = [2]time.Duration{5 * time.Second, 7 * time.Second}
	f.Rest = [2]time.Duration{time.Second, 2 * time.Second}
	inject := f.inject
	f.inject = func(ctx context.Context, fd *field) (string, func(context.Context) error, error) {
		what, heal, err := inject(ctx, fd)
		if err != nil {
			return what, heal, err
		}
		return what, func(ctx context.Context) error {
			if err := heal(ctx); err != nil {
				return err
			}
			return a.settle(ctx)
		}, nil
	}
	return f
}

// redisAdmin looks after servers from the side.
type redisAdmin struct {
	t       *Target
	cluster bool
}

func newRedisAdmin(t *Target) *redisAdmin { return &redisAdmin{t: t} }

// at makes requests to one server.
func (a *redisAdmin) at(addr string, f func(*redis.Client) error) error {
	c := redis.NewClient(&redis.Options{
		Addr: addr, DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1, DialerRetries: 1, PoolSize: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return errors.Join(f(c), c.Close())
}

func (a *redisAdmin) usage(ctx context.Context, addr string) (out map[string]int, err error) {
	err = a.at(addr, func(c *redis.Client) error {
		keys, err := c.DBSize(ctx).Result()
		if err != nil {
			return err
		}
		clients, err := c.ClientList(ctx).Result()
		out = map[string]int{"keys": int(keys), "server connections": strings.Count(clients, "\n")}
		return err
	})
	return out, err
}

// dataNodes are those that hold keys, and not sentinels.
func (a *redisAdmin) dataNodes() int {
	if a.cluster {
		return 6
	}
	return 3
}

// roles are the nodes by whether they are the primary of the rounds' keys and whether they replicate it.
func (a *redisAdmin) roles(ctx context.Context) (primary int, replicas []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var addr string
	if a.cluster {
		addr, err = a.ownerOfSlot(ctx)
	} else {
		for _, s := range a.t.addrs {
			err = a.at(s, func(*redis.Client) error {
				c := redis.NewSentinelClient(&redis.Options{Addr: s, DialTimeout: time.Second, ReadTimeout: time.Second})
				at, err := c.GetMasterAddrByName(ctx, testserver.SentinelMaster).Result()
				if err == nil {
					addr = strings.Join(at, ":")
				}
				return errors.Join(err, c.Close())
			})
			if err == nil {
				break
			}
		}
	}
	if err != nil {
		return 0, nil, err
	}
	primary = -1
	for i := range a.dataNodes() {
		own := a.t.server.NodeAddr(i)
		if own == addr {
			primary = i
			continue
		}
		_ = a.at(own, func(c *redis.Client) error { // one that does not answer is no replica now
			info, err := c.Info(ctx, "replication").Result()
			_, port, _ := strings.Cut(addr, ":")
			if err == nil && strings.Contains(info, "role:slave") && strings.Contains(info, "master_port:"+port+"\r") {
				replicas = append(replicas, i)
			}
			return err
		})
	}
	if primary < 0 {
		return 0, nil, fmt.Errorf("the primary is at %q, where no node is", addr)
	}
	return primary, replicas, nil
}

// ownerOfSlot is the address of the primary that has the rounds' keys, as most nodes see it.
func (a *redisAdmin) ownerOfSlot(ctx context.Context) (string, error) {
	votes := map[string]int{}
	for i := range a.dataNodes() {
		_ = a.at(a.t.server.NodeAddr(i), func(c *redis.Client) error { // the others answer
			slot, err := c.ClusterKeySlot(ctx, root).Result()
			if err != nil {
				return err
			}
			shards, err := c.ClusterShards(ctx).Result()
			for _, shard := range shards {
				if !slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return r.Start <= slot && slot <= r.End }) {
					continue
				}
				for _, n := range shard.Nodes {
					if n.Role == "master" {
						votes[net.JoinHostPort(n.IP, strconv.FormatInt(n.Port, 10))]++
					}
				}
			}
			return err
		})
	}
	for addr, n := range votes {
		if n >= 3 {
			return addr, nil
		}
	}
	return "", fmt.Errorf("no node has the slot of the keys: %v", votes)
}

func (a *redisAdmin) primary(ctx context.Context, _ *field) ([]int, error) {
	p, _, err := a.roles(ctx)
	return []int{p}, err
}

func (a *redisAdmin) replica(ctx context.Context, f *field) ([]int, error) {
	_, replicas, err := a.roles(ctx)
	if err == nil && len(replicas) == 0 {
		err = errors.New("the primary has no replica")
	}
	if err != nil {
		return nil, err
	}
	return []int{replicas[f.rng.IntN(len(replicas))]}, nil
}

func (a *redisAdmin) sentinel(_ context.Context, f *field) ([]int, error) {
	first := a.t.server.Nodes() - len(a.t.addrs)
	return []int{first + f.rng.IntN(len(a.t.addrs))}, nil
}

// failoverOnRequest has the sentinels replace a primary that is well. They do not wait until the replica has everything.
func (a *redisAdmin) failoverOnRequest() Fault {
	return Fault{Name: "failover on request", Exempt: exemptAll, Hold: [2]time.Duration{time.Second, 2 * time.Second}, Rest: [2]time.Duration{time.Second, 2 * time.Second}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		if err := a.settle(ctx); err != nil {
			return "", nil, err
		}
		c := redis.NewSentinelClient(&redis.Options{Addr: a.t.addrs[f.rng.IntN(len(a.t.addrs))], DialTimeout: time.Second, ReadTimeout: time.Second})
		// It is refused while the last one is not long ago.
		err := eventually(ctx, 30*time.Second, func(ctx context.Context) error { return c.Failover(ctx, testserver.SentinelMaster).Err() })
		return "failover on request", a.settle, errors.Join(err, c.Close())
	}}
}

// settle waits until there is one primary with its replicas in step, so that the next failover finds one to promote.
func (a *redisAdmin) settle(ctx context.Context) error {
	want := 2
	if a.cluster {
		want = 1
	}
	return eventually(ctx, 50*time.Second, func(ctx context.Context) error {
		p, replicas, err := a.roles(ctx)
		if err != nil {
			return err
		}
		if len(replicas) < want {
			return fmt.Errorf("node %d has %d replicas", p, len(replicas))
		}
		for _, i := range append(slices.Clone(replicas), p) {
			if err := a.at(a.t.server.NodeAddr(i), func(c *redis.Client) error {
				info, err := c.Info(ctx, "replication").Result()
				if err == nil && i != p && !strings.Contains(info, "master_link_status:up") {
					err = fmt.Errorf("replica %d is not in step", i)
				}
				if err == nil && i == p && !strings.Contains(info, "role:master") {
					err = fmt.Errorf("node %d is no primary yet", i)
				}
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// handover makes a replica the primary in good order: it waits until it has everything.
func (a *redisAdmin) handover() Fault {
	return Fault{Name: "handover", Hold: [2]time.Duration{500 * time.Millisecond, time.Second}, Rest: [2]time.Duration{200 * time.Millisecond, 600 * time.Millisecond}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		if err := a.settle(ctx); err != nil {
			return "", nil, err
		}
		to, err := a.replica(ctx, f)
		if err != nil {
			return "", nil, err
		}
		err = a.at(a.t.server.NodeAddr(to[0]), func(c *redis.Client) error { return c.ClusterFailover(ctx).Err() })
		return fmt.Sprintf("handover to %d", to[0]), a.settle, err
	}}
}
