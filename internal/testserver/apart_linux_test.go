package testserver

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// skipTogether skips a test of several stores where nodes cannot have networks of their own, and where nobody asks for the
// stores: clusters take minutes to part, and a bare go test of this module less than two.
func skipTogether(t *testing.T, stores ...Store) {
	t.Helper()
	for _, store := range stores {
		required, err := Required(store)
		if err != nil {
			t.Fatal(err)
		}
		if !required {
			t.Skipf("not run: KV_TEST_REQUIRE does not name %s", store)
		}
	}
	e, err := newApart(t.Context(), nil, 2)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// parted is how long nodes may take to find each other. A server of Consul passes requests on to the leader over a connection
// that it has had, maybe, since before that one was cut off, and gives it up after 40 seconds without an answer (yamux).
const parted = 90 * time.Second

func TestPartition(t *testing.T) {
	stores := []Store{Etcd, Consul, ZooKeeper}
	skipTogether(t, stores...)
	for _, store := range stores {
		t.Run(string(store), func(t *testing.T) {
			t.Parallel()
			spec := Spec{Store: store, Nodes: 3, Apart: true}
			if store == Consul {
				spec.Config = []string{
					"performance { raft_multiplier = 1 }",        // elections in one second, not five
					"autopilot { cleanup_dead_servers = false }", // or the others expel the one that is cut off
				}
			}
			s := Start(t, spec)
			serves := func(i int) bool {
				_, err := s.nodes[i].probe(t.Context())
				return err == nil
			}
			// Whoever leads, one cut off does not serve, and the others do. Clients reach it all the while.
			for i := range s.Nodes() {
				if err := s.Partition(i); err != nil {
					t.Fatal(err)
				}
				a, b := (i+1)%3, (i+2)%3
				eventually(t, "the node that is cut off gives up", func() bool { return !serves(i) })
				Eventually(t, parted, "the others go on", func() bool { return serves(a) && serves(b) })
				if refuses(s.Addrs()[i]) {
					t.Errorf("node %d refuses clients", i)
				}
				if err := s.Heal(); err != nil {
					t.Fatal(err)
				}
				Eventually(t, parted, "all serve again", func() bool { return serves(0) && serves(1) && serves(2) })
			}
			if store == Consul {
				// A server that is killed and started beside one that is cut off has never met it and, if it is the one to lead,
				// takes it off the catalog, which the rig waits to be whole.
				return
			}
			// A partition outlasts the nodes.
			if err := s.Partition(0); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Kill(1), s.Restart(t.Context(), 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the two serve without the third", func() bool { return serves(1) && serves(2) && !serves(0) })
		})
	}
}

func TestPartitionOfRedis(t *testing.T) {
	skipTogether(t, Redis)
	for name, spec := range map[string]Spec{
		"sentinel": {Store: Redis, Sentinel: true, Apart: true},
		"cluster":  {Store: Redis, Cluster: true, Apart: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Start(t, spec)
			replica := 1
			if spec.Cluster {
				replica = 3
			}
			primary := func(i int) bool {
				role, err := redisCommand(t.Context(), &s.cluster, i, "ROLE")
				return err == nil && strings.Contains(role, "master")
			}
			if !primary(0) || primary(replica) {
				t.Fatal("node 0 is not the primary")
			}
			if err := s.Partition(0); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a replica takes over", func() bool { return primary(replica) || spec.Sentinel && primary(2) })
			if !primary(0) {
				t.Error("the old primary knows, though nobody can have told it")
			}
			if err := s.Heal(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the old primary follows", func() bool { return !primary(0) })
		})
	}
}

func TestPartitionNeedsNetworks(t *testing.T) {
	if err := Start(t, Spec{Store: Redis}).Partition(0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Partition of nodes that are together: %v", err)
	}
}

func TestApartOwnerProcess(t *testing.T) {
	if os.Getenv(ownerProcess) == "" {
		t.Skip("a part of TestNetworksDieWithTheirOwner, which runs it in a process of its own")
	}
	s := Start(t, Spec{Store: Redis, Cluster: true, Apart: true})
	if err := s.Partition(0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("server " + s.engine.(*apart).link + "\n"); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

// Neither a killed process nor a closed server leaves a network.
func TestNetworksDieWithTheirOwner(t *testing.T) {
	skipWithout(t, Redis)
	skipWithout(t, Etcd)
	skipTogether(t)
	gone := func(link string) bool {
		_, err := net.InterfaceByName(link)
		return err != nil
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestApartOwnerProcess$")
	cmd.Env = append(os.Environ(), ownerProcess+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var link string
	lines := bufio.NewScanner(out)
	for link == "" && lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[0] == "server" {
			link = f[1]
		}
	}
	there := link != "" && !gone(link)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	if !there {
		t.Fatalf("the owner has no network %q", link)
	}
	eventually(t, "the network is gone", func() bool { return gone(link) })

	s, err := Launch(t.Context(), Spec{Store: Etcd, Apart: true})
	if err != nil {
		t.Fatal(err)
	}
	link = s.engine.(*apart).link
	if gone(link) {
		t.Errorf("no network %q", link)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !gone(link) {
		t.Errorf("%q is there after Close", link)
	}
}
