package prove

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/polykv/kv/internal/testserver"
)

// TestFind: the checker finds what stores do not promise.
func TestFind(t *testing.T) {
	for _, o := range Openers() {
		switch o.Name {
		case "redis, sentinel", "redis, cluster", "zookeeper, 3 nodes":
		default:
			continue
		}
		t.Run(o.Name, func(t *testing.T) {
			target := opened(t, o)
			found, err := target.find(t.Context(), &Plan{})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(found)
		})
	}
}

// opened starts a target, or skips the test where it cannot run.
func opened(t *testing.T, o Opener) *Target {
	must, err := testserver.Required(testserver.Store(o.Store))
	if err != nil {
		t.Fatal(err)
	}
	target, err := o.Open(t.Context())
	switch {
	case errors.Is(err, testserver.ErrUnavailable) && !must:
		t.Skipf("not run on %s: %v", o.Name, err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := target.Close(); err != nil {
			t.Error(err)
		}
	})
	return target
}

// TestProve is the bounded share of what make prove does: every target, under a few faults each.
func TestProve(t *testing.T) {
	for _, o := range Openers() {
		t.Run(o.Name, func(t *testing.T) {
			target := opened(t, o)
			for _, name := range few[o.Name] {
				f, ok := target.Fault(name)
				if !ok {
					t.Fatalf("%s has no fault %q", o.Name, name)
				}
				seed := rand.Uint64() >> 24
				if s := os.Getenv("KV_PROVE_SEED"); s != "" {
					var err error
					if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
						t.Fatal(err)
					}
				}
				r := &Round{Target: target, Fault: f, Seed: seed, Ops: 800, Cycles: 2, Longest: 20 * time.Second, Dir: os.Getenv("KV_PROVE_PICTURES")}
				res, err := r.Run(t.Context())
				if err != nil {
					t.Fatalf("%s: seed %d: %v", name, seed, err)
				}
				t.Logf("%s: seed %d: %d operations, %d events, %d locks, faults %v in %v %s", name, seed, res.Ops, res.Events, res.Locks, res.Faults, res.Took, res.Skipped)
				for _, v := range res.Unchecked {
					t.Errorf("%s: seed %d: not checked: %v", name, seed, v)
				}
				for _, v := range res.Violations {
					t.Errorf("%s: seed %d: %v", name, seed, v)
				}
			}
		})
	}
}

// few are the faults of TestProve.
var few = map[string][]string{
	"memory":             {"none", "ended contexts"},
	"bolt":               {"ended contexts", "killed process", "full disk"},
	"etcd":               {"lost replies", "kill", "compaction"},
	"etcd, 3 nodes":      {"pause the leader", "move the leader", "partition the leader"},
	"consul":             {"cut connections", "lost replies"},
	"consul, 3 nodes":    {"kill the leader", "partition the leader"},
	"zookeeper":          {"lost replies", "session expiry"},
	"zookeeper, 3 nodes": {"kill the leader", "partition a node"},
	"redis":              {"lost replies", "kill"},
	"redis, sentinel":    {"pause a replica", "partition a replica"},
	"redis, cluster":     {"handover", "partition a replica"},
}
