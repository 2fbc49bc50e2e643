//go:build !linux

package testserver

import (
	"context"
	"runtime"
)

func newApart(context.Context, []string, int) (Engine, error) {
	return nil, unavailable("nodes cannot have networks of their own on %s", runtime.GOOS)
}
