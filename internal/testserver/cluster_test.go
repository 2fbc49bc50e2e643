package testserver

import (
	"strings"
	"testing"
)

func TestThreeNodes(t *testing.T) {
	for _, store := range []Store{Etcd, Consul, ZooKeeper} {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			s := Start(t, Spec{Store: store, Nodes: 3})
			if s.Nodes() != 3 || len(s.Addrs()) != 3 {
				t.Fatalf("%d nodes at %v", s.Nodes(), s.Addrs())
			}
			serves := func(i int) bool {
				_, err := s.nodes[i].probe(t.Context())
				return err == nil
			}
			// Two of three go on, whichever they are; the third catches up.
			if err := s.Kill(0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the others elect a leader", func() bool { return serves(1) && serves(2) })
			if err := s.Restart(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			// One of three does not.
			if err := s.Kill(0, 1); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the last node gives up", func() bool { return !serves(2) })
			if err := s.Restart(t.Context(), 0, 1); err != nil {
				t.Fatal(err)
			}
			// All at once.
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i := range s.Nodes() {
				eventually(t, "every node serves", func() bool { return serves(i) })
			}
		})
	}
}

func TestSentinelFailsOver(t *testing.T) {
	s := Start(t, Spec{Store: Redis, Sentinel: true})
	if len(s.Addrs()) != 3 || s.Nodes() != 6 {
		t.Fatalf("%d nodes, clients use %v", s.Nodes(), s.Addrs())
	}
	primary := func() string {
		got, err := redisCommand(t.Context(), &s.cluster, 3, "SENTINEL GET-MASTER-ADDR-BY-NAME "+SentinelMaster)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	old := primary()
	if err := s.Kill(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a replica takes over", func() bool { return primary() != old })
	if err := s.Restart(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old primary follows the new one", func() bool {
		role, err := redisCommand(t.Context(), &s.cluster, 0, "ROLE")
		return err == nil && strings.Contains(role, "slave")
	})
}

func TestRedisCluster(t *testing.T) {
	s := Start(t, Spec{Store: Redis, Cluster: true})
	if len(s.Addrs()) != 6 {
		t.Fatalf("clients use %v", s.Addrs())
	}
	// Each primary has its slots and sends clients to the others for the rest.
	served, moved := 0, 0
	for i := range 3 {
		answer, err := redisCommand(t.Context(), &s.cluster, i, "SET key value")
		switch {
		case err == nil && strings.HasPrefix(answer, "+OK"):
			served++
		case err != nil && strings.Contains(err.Error(), "MOVED"):
			moved++
		default:
			t.Errorf("node %d answers %q, %v", i, answer, err)
		}
	}
	if served != 1 || moved != 2 {
		t.Errorf("%d primaries serve a key and %d send elsewhere", served, moved)
	}
	if err := s.Kill(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its replica takes over", func() bool {
		role, err := redisCommand(t.Context(), &s.cluster, 3, "ROLE")
		return err == nil && strings.Contains(role, "master")
	})
}
