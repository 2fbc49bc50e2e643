package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Redis as more than one server. Nodes 0 to 2 are primaries of a Redis Cluster and 3 to 5 their replicas in that order; or
// node 0 is a primary with the replicas 1 and 2, and 3 to 5 are sentinels.
const redisGroup = 6

// SentinelMaster is the name by which the sentinels of Spec.Sentinel know their primary.
const SentinelMaster = "kv"

func isSentinel(c *cluster, i int) bool { return c.spec.Sentinel && i >= redisGroup/2 }

// configureSentinel writes the file of a sentinel, which keeps what it learns in it. Shorter times than the default ones
// let tests see a failover within seconds.
func configureSentinel(c *cluster, i int) ([]string, error) {
	m := &c.members[i]
	file := filepath.Join(m.dir, "sentinel.conf")
	return []string{file, "--sentinel"}, writeLines(file, append(redisPort(c, i),
		fmt.Sprintf("dir %q", m.dir),
		fmt.Sprintf("sentinel monitor %s %s %d 2", SentinelMaster, c.members[0].host, c.members[0].ports[0]),
		fmt.Sprintf("sentinel down-after-milliseconds %s 2000", SentinelMaster),
		fmt.Sprintf("sentinel failover-timeout %s 10000", SentinelMaster),
	))
}

// groupSettings returns what makes node i one of a group.
func groupSettings(c *cluster, i int) []string {
	const atOnce = "repl-diskless-sync-delay 0" // do not wait 5 s for more replicas to come
	switch {
	case c.spec.Sentinel && i > 0:
		return []string{atOnce, fmt.Sprintf("replicaof %s %d", c.members[0].host, c.members[0].ports[0])}
	case c.spec.Sentinel:
		return []string{atOnce}
	case c.spec.Cluster:
		return []string{
			atOnce,
			"cluster-enabled yes",
			fmt.Sprintf("cluster-port %d", c.members[i].ports[1]),
			"cluster-node-timeout 2000", // in place of 15 s, as above
		}
	}
	return nil
}

// askRedis sends commands and returns the answers. A server ends the connection on QUIT; a sentinel does not know it, so
// the answer to a last PING tells that all is there.
func askRedis(ctx context.Context, c *cluster, i int, commands string) ([]byte, error) {
	addr := c.client(i)
	if !isSentinel(c, i) {
		return c.ask(ctx, addr, commands+"QUIT\r\n")
	}
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, commands+"PING end\r\n"); err != nil {
		return nil, err
	}
	end := []byte("$3\r\nend\r\n")
	var answer []byte
	for buf := make([]byte, 4<<10); ; {
		n, err := conn.Read(buf)
		answer = append(answer, buf[:n]...)
		if before, ok := bytes.CutSuffix(answer, end); ok {
			return before, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func redisCommand(ctx context.Context, c *cluster, i int, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answer, err := askRedis(ctx, c, i, command+"\r\n")
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(string(answer), "+OK\r\n") // that of QUIT
	if strings.HasPrefix(text, "-") {
		return "", fmt.Errorf("%s: %s", command, strings.TrimSpace(text))
	}
	return text, nil
}

// awaitEach polls every node of some until check finds its answer to command right.
func awaitEach(ctx context.Context, c *cluster, nodes []int, command string, check func(answer string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, i := range nodes {
		for {
			answer, err := redisCommand(ctx, c, i, command)
			if err == nil && check(answer) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s of node %d is not as it should be: %w (%w): %s", command, i, context.Cause(ctx), err, answer)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// awaitReplicas waits until replicas have their primary's data: one that has none is never promoted.
func awaitReplicas(ctx context.Context, c *cluster, nodes ...int) error {
	synced := regexp.MustCompile(`master_link_status:up\r`)
	return awaitEach(ctx, c, nodes, "INFO replication", synced.MatchString)
}

// setUpSentinel waits until every sentinel knows the replicas and the other sentinels: none fails over before.
func setUpSentinel(ctx context.Context, c *cluster) error {
	if err := awaitReplicas(ctx, c, 1, 2); err != nil {
		return err
	}
	ready := regexp.MustCompile(`master0:.*status=ok,.*slaves=2,sentinels=3`)
	return awaitEach(ctx, c, []int{3, 4, 5}, "INFO sentinel", ready.MatchString)
}

// setUpCluster gives the primaries their slots, introduces the nodes to each other and gives each primary its replica.
func setUpCluster(ctx context.Context, c *cluster) error {
	const slots, primaries = 16384, redisGroup / 2
	var errs []error
	do := func(i int, format string, args ...any) string {
		answer, err := redisCommand(ctx, c, i, fmt.Sprintf(format, args...))
		errs = append(errs, err)
		return answer
	}
	var ids []string
	all := make([]int, redisGroup)
	for i := range redisGroup {
		all[i] = i
		do(i, "CLUSTER SET-CONFIG-EPOCH %d", i+1) // or they would quarrel over it first
		_, id, _ := strings.Cut(do(i, "CLUSTER MYID"), "\r\n")
		ids = append(ids, strings.TrimSpace(id))
		if i < primaries {
			do(i, "CLUSTER ADDSLOTSRANGE %d %d", i*slots/primaries, (i+1)*slots/primaries-1)
		}
		if i > 0 {
			do(0, "CLUSTER MEET %s %d %d", c.members[i].host, c.members[i].ports[0], c.members[i].ports[1])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	known := regexp.MustCompile(`cluster_known_nodes:6\r`)
	if err := awaitEach(ctx, c, all, "CLUSTER INFO", known.MatchString); err != nil {
		return err
	}
	for i := primaries; i < redisGroup; i++ {
		do(i, "CLUSTER REPLICATE %s", ids[i-primaries])
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	healthy := regexp.MustCompile(`cluster_state:ok\r`)
	if err := awaitEach(ctx, c, all, "CLUSTER INFO", healthy.MatchString); err != nil {
		return err
	}
	err := awaitEach(ctx, c, all, "CLUSTER NODES", func(answer string) bool {
		return strings.Count(answer, "slave ") == redisGroup-primaries
	})
	if err != nil {
		return err
	}
	return awaitReplicas(ctx, c, 3, 4, 5)
}
