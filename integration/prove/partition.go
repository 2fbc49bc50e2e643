package prove

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv/internal/testserver"
)

// startAs starts a store of so many nodes.
func startAs(ctx context.Context, store string, nodes int, spec testserver.Spec) (*Target, error) {
	if nodes > 1 {
		return startApart(ctx, name(store, nodes), spec)
	}
	return start(ctx, name(store, nodes), spec)
}

// startApart is start for the nodes of a cluster. Where the machine lets it, each has a network of its own, so that it can
// be cut off; alone says why not.
func startApart(ctx context.Context, name string, spec testserver.Spec) (t *Target, err error) {
	spec.Apart = true
	t, err = start(ctx, name, spec)
	if !errors.Is(err, testserver.ErrUnavailable) {
		return t, err
	}
	alone := err
	spec.Apart = false
	if t, err = start(ctx, name, spec); err == nil {
		t.together = alone.Error()
	}
	return t, err
}

// partition cuts nodes off from the others, while clients reach them all.
func partition(name string, hold [2]time.Duration, pick func(context.Context, *field) ([]int, error)) Fault {
	return Fault{Name: name, Hold: hold, Rest: [2]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}, needsNetworks: true, inject: func(ctx context.Context, f *field) (string, func(context.Context) error, error) {
		nodes, err := pick(ctx, f)
		if err != nil {
			return "", nil, err
		}
		what := fmt.Sprintf("cut %v off from the other nodes", nodes)
		return what, func(context.Context) error { return f.t.server.Heal() }, f.t.server.Partition(nodes...)
	}}
}

// partitionOfNode is as long as calls wait, and longer.
var partitionOfNode = [2]time.Duration{500 * time.Millisecond, 4 * time.Second}

// partitionOfLeader is long enough for another one to be elected.
var partitionOfLeader = [2]time.Duration{3 * time.Second, 6 * time.Second}
