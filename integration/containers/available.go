package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/testcontainers/testcontainers-go"
)

// ErrUnavailable is matched by errors of Available.
var ErrUnavailable = errors.New("containers cannot be run here")

// Available returns nil if Docker answers and every image that the stores need is there or can be pulled, which it does
// then: with a registry out of reach that takes until ctx ends. The reaper's image is one of them unless
// TESTCONTAINERS_RYUK_DISABLED is true.
func Available(ctx context.Context, stores ...Store) (err error) {
	provider, err := openDocker()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	if err := provider.Health(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var images []string
	for _, s := range stores {
		image, err := Image(s)
		if err != nil {
			return err
		}
		images = append(images, image)
	}
	if off, err := strconv.ParseBool(os.Getenv("TESTCONTAINERS_RYUK_DISABLED")); err != nil || !off {
		//nolint:staticcheck // SA1019: the value that replaced it is internal, and a reaper that cannot be had fails every start
		images = append(images, testcontainers.ReaperDefaultImage)
	}
	for _, image := range images {
		_, err := provider.Client().ImageInspect(ctx, image)
		if errdefs.IsNotFound(err) {
			err = provider.PullImage(ctx, image)
		}
		if err != nil {
			return fmt.Errorf("%w: image %s: %w", ErrUnavailable, image, err)
		}
	}
	return nil
}
