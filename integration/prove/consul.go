package prove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/polykv/kv/backend/consulkv"
	"github.com/polykv/kv/internal/testserver"
)

type consulAdmin struct {
	c     *http.Client
	addrs []string
}

// consulExpiry is when a silent session of 10 s, the shortest that there is, has expired for certain.
const consulExpiry = 21 * time.Second

// Consul is a Consul of so many servers. Each client knows one of them.
func Consul(ctx context.Context, nodes int) (*Target, error) {
	spec := testserver.Spec{Store: testserver.Consul, Nodes: nodes}
	if nodes > 1 {
		spec.Config = []string{
			"performance { raft_multiplier = 1 }",        // elections in one second, not five
			"autopilot { cleanup_dead_servers = false }", // or two that are left expel the third, and one more fault stops them
		}
	}
	t, err := startAs(ctx, "consul", nodes, spec)
	if err != nil {
		return nil, err
	}
	a := &consulAdmin{&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}, t.addrs}
	t.open = byURL(consulkv.Driver{}, "consul", nil)
	t.usage = a.usage
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults, kill("kill", anyNode(nodes)), pause("pause", pauseOfServer, anyNode(nodes)), expiry(consulExpiry))
	if nodes > 1 {
		t.Faults = append(t.Faults, kill("kill the leader", a.leader), pause("pause the leader", pauseOfLeader, a.leader), a.moveLeader(),
			partition("partition the leader", partitionOfLeader, a.leader), partition("partition a node", partitionOfNode, follower(nodes, a.leader)))
	}
	return t, nil
}

func (a *consulAdmin) get(ctx context.Context, node int, path string, into any) error {
	return a.call(ctx, http.MethodGet, node, path, into)
}

func (a *consulAdmin) call(ctx context.Context, method string, node int, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.addrs[node]+path, nil)
	if err != nil {
		return err
	}
	res, err := a.c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return nil // of keys: there is none
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

func (a *consulAdmin) usage(ctx context.Context) (map[string]int, error) {
	var keys []string
	var sessions []json.RawMessage
	err := errors.Join(a.get(ctx, 0, "/v1/kv/?keys", &keys), a.get(ctx, 0, "/v1/session/list", &sessions))
	return map[string]int{"keys": len(keys), "sessions": len(sessions)}, err
}

func (a *consulAdmin) leader(ctx context.Context, _ *field) ([]int, error) {
	var leader int
	err := eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		for i := range a.addrs {
			var self struct {
				Stats struct {
					Consul struct{ Leader string }
				}
			}
			if err := a.get(ctx, i, "/v1/agent/self", &self); err == nil && self.Stats.Consul.Leader == "true" {
				leader = i
				return nil
			}
		}
		return errors.New("no server leads")
	})
	return []int{leader}, err
}

// moveLeader hands the lead over in good order.
func (a *consulAdmin) moveLeader() Fault {
	return Fault{Name: "move the leader", Hold: short, Rest: [2]time.Duration{200 * time.Millisecond, 600 * time.Millisecond}, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		from, err := a.leader(ctx, f)
		if err != nil {
			return "", nil, err
		}
		// It says so if it could not, because an election was under way for instance: no lead moves then.
		var moved struct{ Success bool }
		err = a.call(ctx, http.MethodPost, from[0], "/v1/operator/raft/transfer-leader", &moved)
		return fmt.Sprintf("move the leader from %d (done: %v, %v)", from[0], moved.Success, err), healed, nil
	}}
}
