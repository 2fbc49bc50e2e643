package containers

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/polykv/kv/internal/testserver"
)

const (
	// Label is on every container that this package starts. Its value is a directory, which is locked as long as the test
	// process lives.
	Label = "com.github.polykv.kv.dir"

	// labelTemp says in which temporary directory that is: another machine's, or another container's, may have the same
	// name, and its owner is not ours to judge.
	labelTemp = "com.github.polykv.kv.temp"
)

// sweep removes the containers of owners who are dead.
func sweep(ctx context.Context, docker client.APIClient, tempID string) error {
	list, err := docker.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelTemp+"="+tempID),
	})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list.Items {
		if !testserver.Abandoned(c.Labels[Label]) {
			continue
		}
		_, err := docker.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) { // somebody else may be removing it
			return fmt.Errorf("remove container %s of a dead process: %w", c.ID, err)
		}
	}
	return nil
}
