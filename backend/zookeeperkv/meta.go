package zookeeperkv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// schemaVersion is what this version of the library writes into the bookkeeping's node (R6).
const schemaVersion = 1

// schema looks after the bookkeeping's own nodes:
//
//	META          "polykv 1"
//	META/guard    see guards
//	META/ttl, due see stamp
//	META/lock     see contender
//	META/clock    see tick
type schema struct {
	s *Store

	mu    sync.Mutex
	ready bool
}

// prepare makes the bookkeeping if it is not there, and refuses that of a newer version.
func (s *Store) prepare(ctx context.Context) error {
	m := &s.schema
	m.mu.Lock()
	ready := m.ready
	m.mu.Unlock()
	if ready {
		return nil
	}
	n, err := s.get(ctx, s.link, s.meta)
	if err == nil && !n.exists {
		for _, dir := range ancestors(s.meta) {
			if err := s.create(ctx, s.link, dir, nil); err != nil {
				return s.locked(err)
			}
		}
		if err = s.create(ctx, s.link, s.meta, []byte("polykv "+strconv.Itoa(schemaVersion))); err == nil {
			n, err = s.get(ctx, s.link, s.meta)
		}
	}
	if err != nil {
		return s.locked(err)
	}
	if err := checkSchema(n.data); err != nil {
		return fmt.Errorf("bookkeeping at %s: %w", s.meta, err)
	}
	err = parallel(ctx, 5, func(ctx context.Context, i int) error {
		return s.create(ctx, s.link, s.meta+[]string{"/guard", "/ttl", "/due", "/lock", "/clock"}[i], nil)
	})
	if err != nil {
		return s.locked(err)
	}
	m.mu.Lock()
	m.ready = true
	m.mu.Unlock()
	return nil
}

func checkSchema(data []byte) error {
	version, ok := strings.CutPrefix(string(data), "polykv ")
	n, err := strconv.Atoi(version)
	switch {
	case !ok || err != nil || n < 1:
		return backend.ErrCorrupt
	case n > schemaVersion:
		return fmt.Errorf("%w: version %d, this library knows %d", backend.ErrNewerSchema, n, schemaVersion)
	}
	return nil
}

// locked explains a refused permission.
func (s *Store) locked(err error) error {
	if errors.Is(err, backend.ErrPermission) {
		return fmt.Errorf("no rights on the bookkeeping at %s, so no conditional writes, deletes, transactions, TTL or locks: %w", s.meta, err)
	}
	return err
}

// guardNodes is how many nodes share the deletes between them.
const guardNodes = 64

// guards make conditional writes exact. ZooKeeper compares the version of a node's data, which starts again at 0 when
// the node is deleted and made again, so that a stale condition can hold by chance. Every delete by this library
// therefore also writes to a guard node, chosen by the key's path, and every conditional write checks that this has not
// happened since the key was read.
//
// The versions are remembered, and the order of reads is what counts: a guard's version has to be older than the
// key's. A version that is too old only costs another try.
type guards struct {
	s *Store

	mu      sync.Mutex
	version [guardNodes]int32
	known   [guardNodes]bool
}

func guardOf(path string) int { return int(hash(path) % guardNodes) }

func (s *Store) guardPath(i int) string { return s.meta + "/guard/" + strconv.Itoa(i) }

// of returns the guard's version, to be used for keys that are read from now on.
func (g *guards) of(ctx context.Context, i int) (int32, error) {
	g.mu.Lock()
	v, ok := g.version[i], g.known[i]
	g.mu.Unlock()
	if ok {
		return v, nil
	}
	if err := g.s.prepare(ctx); err != nil {
		return 0, err
	}
	path := g.s.guardPath(i)
	n, err := g.s.exists(ctx, g.s.link, path)
	if err == nil && !n.exists {
		if err = g.s.create(ctx, g.s.link, path, nil); err == nil {
			n, err = g.s.exists(ctx, g.s.link, path)
		}
	}
	if err != nil {
		return 0, g.s.locked(err)
	}
	g.set(i, n.stat.Version)
	return n.stat.Version, nil
}

func (g *guards) set(i int, version int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.version[i], g.known[i] = version, true
}

// forget makes the next call of of read the version again.
func (g *guards) forget(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known[i] = false
}

// check is the operation that fails if there was a delete since version was read.
func (s *Store) guardCheck(i int, version int32) *zk.CheckVersionRequest {
	return &zk.CheckVersionRequest{Path: s.guardPath(i), Version: version}
}

// bump is the operation that tells others of a delete; with a version other than -1 it is a check as well.
func (s *Store) guardBump(i int, version int32) *zk.SetDataRequest {
	return &zk.SetDataRequest{Path: s.guardPath(i), Version: version}
}
