package zookeeperkv

import (
	"context"
	"slices"
	"strings"

	"github.com/go-zookeeper/zk"
)

// plan is the Multi that a transaction becomes.
type plan struct {
	ops  []any
	tags []tag

	checked map[int]int32   // guards, and the versions that the conditions rest on
	bumped  map[int]bool    // guards of what is deleted
	made    map[string]bool // nodes that the Multi makes
	grows   map[string]int  // by how many children a directory grows
	due     map[int64]bool  // seconds that the Multi makes
	later   []string        // directories to look at again in the background
}

// tag tells what an operation is about, for when it fails.
type tag struct {
	kind tagKind
	i    int
}

type tagKind uint8

const (
	ofKey   tagKind = iota // a key's node or one above it
	ofGuard                // the guard numbered i
	ofLock                 // the lock check numbered i
	ofStamp                // a stamp or its listing
	ofDue                  // the second i
)

func (p *plan) add(kind tagKind, i int, op any) int {
	p.ops = append(p.ops, op)
	p.tags = append(p.tags, tag{kind, i})
	return len(p.ops) - 1
}

// build turns the transaction into operations, on the keys as the survey found them.
func (tx *txn) build(ctx context.Context) error {
	tx.plan = plan{
		checked: map[int]int32{}, bumped: map[int]bool{}, made: map[string]bool{}, grows: map[string]int{},
		due: map[int64]bool{},
	}
	for i, c := range tx.held {
		tx.add(ofLock, i, &zk.CheckVersionRequest{Path: c.Holder, Version: -1})
	}
	for _, g := range tx.order {
		if g.write != nil && !g.write.Delete {
			tx.put(g)
		}
	}
	tx.remove()
	for _, g := range tx.order {
		if g.write == nil {
			tx.verify(g)
		}
	}
	if err := tx.stampAll(ctx); err != nil {
		return err
	}
	if err := tx.prune(ctx); err != nil {
		return err
	}
	// Guards come last: they are shared, and a failure of the key's own condition tells more.
	for i := range guardNodes {
		version, checked := tx.checked[i]
		switch {
		case tx.bumped[i] && checked:
			tx.add(ofGuard, i, tx.s.guardBump(i, version))
		case tx.bumped[i]:
			tx.add(ofGuard, i, tx.s.guardBump(i, -1))
		case checked:
			tx.add(ofGuard, i, tx.s.guardCheck(i, version))
		}
	}
	return nil
}

// rests makes the plan rest on g's node being the one that was read, and returns the version to ask for.
func (tx *txn) rests(path string, version, guard int32) int32 {
	i := guardOf(path)
	if old, ok := tx.checked[i]; !ok || guard < old {
		tx.checked[i] = guard
	}
	return version
}

// make adds a node without data, and what is missing above it.
func (tx *txn) make(path string, missing []string) {
	for _, dir := range missing {
		if !tx.made[dir] {
			tx.make(dir, nil)
		}
	}
	tx.made[path] = true
	tx.grows[parent(path)]++
	tx.add(ofKey, 0, &zk.CreateRequest{Path: path, Acl: tx.s.o.ACL})
}

// put writes a value. A node is made empty and then set, because only a set answers with the new Stat.
func (tx *txn) put(g *target) {
	version := int32(-1)
	switch {
	case !g.exists && tx.made[g.path]: // as a directory for another key of this transaction
		version = 0
	case !g.exists:
		tx.make(g.path, g.missing)
		version = 0
	case g.isKey() && !g.was && g.stat.NumChildren == 0 && tx.grows[g.path] == 0:
		// Expired: a new node, so that everybody sees a new key.
		tx.bumped[guardOf(g.path)] = true
		tx.add(ofKey, 0, &zk.DeleteRequest{Path: g.path, Version: tx.rests(g.path, g.stat.Version, g.guard)})
		tx.add(ofKey, 0, &zk.CreateRequest{Path: g.path, Acl: tx.s.o.ACL})
		version = 0
	case g.check != nil || g.write.KeepTTL || g.isKey() && !g.was:
		version = tx.rests(g.path, g.stat.Version, g.guard)
	}
	g.setOp = tx.add(ofKey, 0, &zk.SetDataRequest{Path: g.path, Data: g.value, Version: version})
}

// remove deletes keys, the deepest first: what has children, or gets some, only loses its value.
func (tx *txn) remove() {
	var gone []*target
	for _, g := range tx.order {
		if g.write != nil && g.write.Delete && g.isKey() && !g.skip {
			gone = append(gone, g)
		}
	}
	slices.SortStableFunc(gone, func(a, b *target) int { return strings.Count(b.path, "/") - strings.Count(a.path, "/") })
	for _, g := range gone {
		version := int32(-1)
		if g.check != nil || !g.was {
			version = tx.rests(g.path, g.stat.Version, g.guard)
		}
		tx.bumped[guardOf(g.path)] = true
		if int(g.stat.NumChildren)+tx.grows[g.path] > 0 {
			tx.add(ofKey, 0, &zk.SetDataRequest{Path: g.path, Version: version})
			// Its last children may be directories that are found to be empty only when the rest is done, or keys that others
			// delete at this moment, to whom it is a key still.
			if g.stat.NumChildren <= fewChildren {
				tx.later = append(tx.later, g.path)
			}
			continue
		}
		tx.grows[parent(g.path)]--
		tx.add(ofKey, 0, &zk.DeleteRequest{Path: g.path, Version: version})
	}
	// What is not there to be deleted must not be there when the rest is done, either: somebody may make it meanwhile, and
	// the first survey may come from a server that lags behind.
	for _, g := range tx.order {
		if g.write != nil && g.write.Delete && !g.isKey() && !tx.reap {
			tx.verify(g)
		}
	}
}

// verify checks a key that is not written, or found gone already by a delete.
func (tx *txn) verify(g *target) {
	if g.exists {
		version := tx.rests(g.path, g.stat.Version, g.guard)
		tx.add(ofKey, 0, &zk.CheckVersionRequest{Path: g.path, Version: version})
		return
	}
	// There is no check for absence: make the topmost node that is missing, and take it away again.
	for _, path := range append(slices.Clip(g.missing), g.path) {
		if !tx.made[path] {
			tx.add(ofKey, 0, &zk.CreateRequest{Path: path, Acl: tx.s.o.ACL})
			tx.add(ofKey, 0, &zk.DeleteRequest{Path: path, Version: -1})
			return
		}
	}
	// It is made as a directory by another write, which fails if it is there.
}

// stampAll writes, moves and removes stamps.
func (tx *txn) stampAll(ctx context.Context) error {
	s := tx.s
	for _, g := range tx.order {
		g.stamp2 = nil
		if g.write == nil || g.skip && g.stale == nil {
			continue // what is skipped may have the stamp of a value that it has no more
		}
		old := g.stamp
		if old == nil {
			old = g.stale
		}
		at := slotOf(g.path)
		switch {
		case g.write.KeepTTL && g.stamp != nil && g.stamp.lease == "":
			t := *old
			g.stamp2 = &t
			g.stampOp = tx.add(ofStamp, 0, &zk.SetDataRequest{Path: s.stampPath(at), Data: t.encode(false), Version: old.version})
		case g.write.TTL > 0 && old != nil:
			t := newStamp(g.path, g.write.TTL)
			t.lease = tx.lease
			if old.due <= t.due {
				t.due = old.due // the reaper will list it anew
			} else {
				tx.unlist(old.due, at)
				tx.list(t.due, at)
			}
			g.stamp2 = &t
			g.stampOp = tx.add(ofStamp, 0, &zk.SetDataRequest{Path: s.stampPath(at), Data: t.encode(false), Version: old.version})
		case g.write.TTL > 0:
			if err := s.makeBucket(ctx, g.path); err != nil {
				return err
			}
			t := newStamp(g.path, g.write.TTL)
			t.lease = tx.lease
			tx.list(t.due, at)
			g.stamp2 = &t
			g.stampOp = tx.add(ofStamp, 0, &zk.CreateRequest{Path: s.stampPath(at), Data: t.encode(false), Acl: s.o.ACL})
		case old != nil && (g.isKey() || !g.write.Delete || tx.reap):
			tx.unlist(old.due, at)
			tx.add(ofStamp, 0, &zk.DeleteRequest{Path: s.stampPath(at), Version: old.version})
		}
	}
	return nil
}

func (tx *txn) list(second int64, at slot) {
	s := tx.s
	if !s.reaper.isKnown(second) && !tx.due[second] {
		tx.due[second] = true
		tx.add(ofDue, int(second), &zk.CreateRequest{Path: s.duePath(second), Acl: s.o.ACL})
	}
	tx.add(ofDue, int(second), &zk.CreateRequest{Path: s.duePathOf(second, at), Acl: s.o.ACL})
}

func (tx *txn) unlist(second int64, at slot) {
	tx.add(ofStamp, 0, &zk.DeleteRequest{Path: tx.s.duePathOf(second, at), Version: -1})
}

// makeBucket makes sure that the key at path may have a stamp, and that readers know it.
func (s *Store) makeBucket(ctx context.Context, path string) error {
	may, err := s.stamped(ctx, s.link, path)
	if err != nil || may {
		return err
	}
	return s.create(ctx, s.link, s.meta+"/ttl/"+slotOf(path).bucket, nil)
}

// prune removes the directories that the transaction empties.
func (tx *txn) prune(ctx context.Context) error {
	s := tx.s
	for again := true; again; {
		again = false
		for dir, by := range tx.grows {
			if by >= 0 || !s.inside(dir) || tx.writes(dir) {
				continue
			}
			delete(tx.grows, dir)
			// Most directories are not emptied, and it takes no data to see that.
			d, found := tx.dirs[dir]
			if found && (int(d.stat.NumChildren)+by > 0 || d.stat.DataLength > 0) {
				tx.mayEmpty(dir, d.node, by)
				continue
			}
			d, err := s.directory(ctx, dir, s.get)
			if err != nil {
				return err
			}
			if !d.exists || d.isKey() || int(d.stat.NumChildren)+by > 0 {
				tx.mayEmpty(dir, d.node, by)
				continue
			}
			tx.bumped[guardOf(dir)] = true
			tx.add(ofKey, 0, &zk.DeleteRequest{Path: dir, Version: tx.rests(dir, d.stat.Version, d.guard)})
			tx.grows[parent(dir)]--
			again = true
		}
	}
	return nil
}

// fewChildren is how many others a directory has at most that is looked at again after a delete.
const fewChildren = 256

// mayEmpty notes a directory that keeps some children, unless others delete those at this moment: of two deletes that
// overlap, each sees the other's key, and neither takes the directory along. So it is with one that has none and is a key.
func (tx *txn) mayEmpty(dir string, n node, by int) {
	left := int(n.stat.NumChildren) + by
	if n.exists && (n.stat.DataLength == 0 && left <= fewChildren || left == 0) {
		tx.later = append(tx.later, dir)
	}
}

// writes reports whether the transaction itself has dealt with the node at path, or rests on it.
func (tx *txn) writes(path string) bool {
	if tx.made[path] {
		return true
	}
	for _, g := range tx.order {
		if g.path == path {
			return g.isKey() || g.check != nil || !g.write.Delete || !tx.reap
		}
	}
	return false
}
