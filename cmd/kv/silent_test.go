package main

import (
	"context"
	"crypto/tls"
	"os"
	"testing"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// silentDriver opens a store that answers nobody.
type silentDriver struct{ memDriver }

func (d silentDriver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	s, err := d.memDriver.Open(ctx, u)
	return silent{s}, err
}

type silent struct{ backend.Store }

func (silent) Ping(ctx context.Context) error {
	<-ctx.Done()
	return backend.ContextError(ctx)
}

func (s silent) Contend(ctx context.Context, _ string, _ backend.ContendOptions) (backend.Contender, error) {
	return nil, s.Ping(ctx)
}

// That nobody answered is not that somebody else holds the lock.
func TestLockOnASilentStore(t *testing.T) {
	sh := memory(t)
	open := sh.drivers
	sh.drivers = func(conf *tls.Config) kv.Drivers {
		return kv.Drivers{silentDriver{open(conf)[0].(memDriver)}}
	}
	sh.want(exitUnavailable, "", "lock -wait 10ms jobs/nightly "+os.Args[0])
}

// halfDriver opens a store that fails in the midst of a DeletePrefix.
type halfDriver struct{ memDriver }

func (d halfDriver) Open(ctx context.Context, u backend.URL) (backend.Store, error) {
	s, err := d.memDriver.Open(ctx, u)
	return half{s}, err
}

type half struct{ backend.Store }

func (half) DeletePrefix(context.Context, string) (int64, error) {
	return 3, backend.ErrUnavailable
}

// What was deleted before the store failed is told.
func TestDeleteHalf(t *testing.T) {
	sh := memory(t)
	open := sh.drivers
	sh.drivers = func(conf *tls.Config) kv.Drivers {
		return kv.Drivers{halfDriver{open(conf)[0].(memDriver)}}
	}
	sh.want(exitUnavailable, "3\n", "delete -r jobs")
}
