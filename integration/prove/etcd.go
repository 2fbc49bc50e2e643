package prove

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/polykv/kv/backend/etcdkv"
	"github.com/polykv/kv/internal/testserver"
)

// etcdAdmin looks after an etcd from the side, past the clients' proxies.
type etcdAdmin struct {
	c     *clientv3.Client
	addrs []string
}

// etcdExpiry is when the shortest lease that a server grants, of two seconds, has expired.
const etcdExpiry = 3 * time.Second

// Etcd is an etcd of so many nodes.
func Etcd(ctx context.Context, nodes int) (*Target, error) {
	t, err := startAs(ctx, "etcd", nodes, testserver.Spec{Store: testserver.Etcd, Nodes: nodes})
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: t.addrs, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	a := &etcdAdmin{c, t.addrs}
	stop := t.close
	t.close = func() error { return errors.Join(c.Close(), stop()) }
	t.open = byURL(etcdkv.Driver{}, "etcd", nil)
	t.usage = a.usage
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults, kill("kill", anyNode(nodes)), pause("pause", pauseOfServer, anyNode(nodes)), a.compaction(), expiry(etcdExpiry))
	if nodes > 1 {
		t.Faults = append(t.Faults, kill("kill the leader", a.leader), pause("pause the leader", pauseOfLeader, a.leader), a.moveLeader(),
			partition("partition the leader", partitionOfLeader, a.leader), partition("partition a node", partitionOfNode, follower(nodes, a.leader)))
	}
	return t, nil
}

func (a *etcdAdmin) usage(ctx context.Context) (map[string]int, error) {
	keys, err := a.c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, err
	}
	leases, err := a.c.Leases(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]int{"keys": int(keys.Count), "leases": len(leases.Leases)}, nil
}

// leader returns the node that leads.
func (a *etcdAdmin) leader(ctx context.Context, _ *field) ([]int, error) {
	var leader int
	err := eventually(ctx, 20*time.Second, func(ctx context.Context) error {
		for i, addr := range a.addrs {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			st, err := a.c.Status(ctx, addr)
			cancel()
			if err == nil && st.Leader == st.Header.MemberId {
				leader = i
				return nil
			}
		}
		return errors.New("no node leads")
	})
	return []int{leader}, err
}

// moveLeader hands the lead over in good order.
func (a *etcdAdmin) moveLeader() Fault {
	return Fault{Name: "move the leader", Hold: short, Rest: [2]time.Duration{200 * time.Millisecond, 600 * time.Millisecond}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		from, err := a.leader(ctx, f)
		if err != nil {
			return "", nil, err
		}
		to := (from[0] + 1 + f.rng.IntN(len(a.addrs)-1)) % len(a.addrs)
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		st, err := a.c.Status(ctx, a.addrs[to])
		if err != nil {
			return "", nil, err
		}
		// Only the leader takes the request.
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{a.addrs[from[0]]}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			return "", nil, err
		}
		defer c.Close()
		if _, err := c.MoveLeader(ctx, st.Header.MemberId); err != nil {
			return "", nil, err
		}
		return fmt.Sprintf("move the leader from %d to %d", from[0], to), healed, nil
	}}
}

// compaction forgets history while watches are cut off.
func (a *etcdAdmin) compaction() Fault {
	return Fault{Name: "compaction", Forgets: true, Hold: short, Rest: [2]time.Duration{200 * time.Millisecond, 600 * time.Millisecond}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		blind := f.rng.IntN(2) == 0
		if blind { // or watches keep up, and lose nothing
			for _, l := range f.links {
				l.net.each(func(_ string, p *testserver.Proxy) { p.Stall() })
			}
		}
		heal := func(context.Context) error {
			for _, l := range f.links {
				l.net.each(func(_ string, p *testserver.Proxy) { p.Cut(); p.Resume() })
			}
			return nil
		}
		if !blind {
			heal = healed
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		// The requests that were under way are done behind the clients' backs, so there is something to miss.
		now, err := a.c.Get(ctx, "x", clientv3.WithCountOnly())
		if err == nil {
			_, err = a.c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		}
		return fmt.Sprintf("compaction (clients cut off: %v)", blind), heal, err
	}}
}
