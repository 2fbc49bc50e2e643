package testserver

import (
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
