package prove

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/backend/boltkv"
	"github.com/polykv/kv/backend/memkv"
)

// embeddedFaults are those of stores without a network: none, and impatient callers.
func embeddedFaults() []Fault { return []Fault{{Name: "none"}, hasty()} }

// Memory is the store of package kvtest.
func Memory(context.Context) (*Target, error) {
	s := memkv.New(memkv.Options{})
	return &Target{
		Name: "memory", Store: "memory", Faults: embeddedFaults(), close: s.Close,
		open: func(context.Context, *network) (*kv.Store, func() error, error) {
			return kv.New(s.Peer()), nothingToClose, nil
		},
	}, nil
}

func nothingToClose() error { return nil }

// Bolt is a bbolt file. Its clients are peers in this process, or for the fault "kill" in one that is killed.
func Bolt(ctx context.Context) (*Target, error) {
	dir, err := os.MkdirTemp("", "kv-prove-")
	if err != nil {
		return nil, err
	}
	t := &Target{Name: "bolt", Store: "bolt", Version: moduleVersion("go.etcd.io/bbolt"), Faults: append(embeddedFaults(), killedProcess(), fullDisk())}
	s, err := openBolt(ctx, filepath.Join(dir, "kv.db"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	t.open = func(context.Context, *network) (*kv.Store, func() error, error) {
		return kv.New(s.Peer()), nothingToClose, nil
	}
	t.close = func() error { return errors.Join(s.Close(), os.RemoveAll(dir)) }
	return t, nil
}

func openBolt(ctx context.Context, file string) (*boltkv.Store, error) {
	u, err := backend.ParseURL("bolt://" + (&url.URL{Path: file}).EscapedPath() + "?history=true&bucket=" + url.QueryEscape(root))
	if err != nil {
		return nil, err
	}
	s, err := boltkv.Driver{}.Open(ctx, u)
	if err != nil {
		return nil, err
	}
	return s.(*boltkv.Store), nil
}

// moduleVersion is that of a module in this program.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return ""
}
