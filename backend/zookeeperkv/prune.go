package zookeeperkv

import (
	"context"

	"github.com/go-zookeeper/zk"
)

// tidyUp removes dir if it is an empty directory, and those above that become empty with it. Somebody who puts a key
// into one at this moment wins: the delete of a node that has children fails, and so does that of one whose data, or
// whose guard, has moved.
func (s *Store) tidyUp(ctx context.Context, dir string) {
	for tries := 0; s.inside(dir) && tries < 5; {
		d, err := s.directory(ctx, dir, s.get)
		if err != nil || !d.exists || d.isKey() || d.stat.NumChildren > 0 {
			return
		}
		guard := guardOf(dir)
		res, _, err := s.multi(ctx, s.link, []any{
			&zk.DeleteRequest{Path: dir, Version: d.stat.Version},
			s.guardBump(guard, d.guard),
		}, nil)
		switch {
		case err == nil:
			s.guards.set(guard, res[1].Stat.Version)
			dir, tries = parent(dir), 0
		case moved(err):
			s.guards.forget(guard)
			tries++
		default:
			return
		}
	}
}
