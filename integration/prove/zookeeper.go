package prove

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/polykv/kv/backend/zookeeperkv"
	"github.com/polykv/kv/internal/testserver"
)

type zooAdmin struct{ addrs []string }

// zooSession is the shortest that a server with the default tick grants.
const zooSession = 4 * time.Second

// zooExpiry is when a silent session has expired: servers look each tick.
const zooExpiry = zooSession + 2500*time.Millisecond

// ZooKeeper is an ensemble of so many servers.
func ZooKeeper(ctx context.Context, nodes int) (*Target, error) {
	spec := testserver.Spec{Store: testserver.ZooKeeper, Nodes: nodes}
	if nodes > 1 {
		spec.Config = []string{"tickTime=1000", "syncLimit=2"} // followers give a silent leader up after 2 s, not 10
	}
	t, err := startAs(ctx, "zookeeper", nodes, spec)
	if err != nil {
		return nil, err
	}
	a := &zooAdmin{t.addrs}
	t.open = byURL(zookeeperkv.Driver{}, "zookeeper", url.Values{"session": {zooSession.String()}})
	t.usage = a.usage
	t.Faults = append(embeddedFaults(), networkFaults()...)
	t.Faults = append(t.Faults, kill("kill", anyNode(nodes)), pause("pause", pauseOfServer, anyNode(nodes)), expiry(zooExpiry))
	if nodes > 1 {
		t.find = func(ctx context.Context, p *Plan) (string, error) { return a.findStaleRead(ctx, t, p) }
		paused := pause("pause the leader", pauseOfLeader, a.leader)
		paused.Exempt = exemptReads // it may answer a sync before it learns that it leads no more
		cut := partition("partition the leader", partitionOfLeader, a.leader)
		cut.Exempt = exemptReads // as above
		t.Faults = append(t.Faults, kill("kill the leader", a.leader), paused, cut,
			partition("partition a node", partitionOfNode, follower(nodes, a.leader)))
	}
	return t, nil
}

// srvr asks one server how it is.
func (a *zooAdmin) srvr(ctx context.Context, node int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.addrs[node])
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

var zooNumber = regexp.MustCompile(`(?m)^(Connections|Node count): (\d+)$`)

func (a *zooAdmin) usage(ctx context.Context) (map[string]int, error) {
	answer, err := a.srvr(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, m := range zooNumber.FindAllStringSubmatch(answer, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, err
		}
		out[map[string]string{"Connections": "server connections", "Node count": "nodes"}[m[1]]] = n
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("srvr answers %q", answer)
	}
	return out, nil
}

var zooLeads = regexp.MustCompile(`(?m)^Mode: leader$`)

func (a *zooAdmin) leader(ctx context.Context, _ *field) ([]int, error) {
	var leader int
	err := eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		for i := range a.addrs {
			if answer, err := a.srvr(ctx, i); err == nil && zooLeads.MatchString(answer) {
				leader = i
				return nil
			}
		}
		return errors.New("no server leads")
	})
	return []int{leader}, err
}
