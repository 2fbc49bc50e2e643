package boltkv

import (
	"sync"

	"github.com/google/btree"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// undo makes the pages of a list one snapshot although each is read in a
// transaction of its own. While the list is under way it collects, for every
// key that is changed ahead of the list, what was there first: read over a page
// of the present, that gives the page as it was when the list began.
//
// It is bounded: a list that is overtaken by more than undoBytes of changed
// values ends with ErrHistoryLost, as one of a compacted revision does in etcd.
type undo struct {
	revision backend.Revision // of the snapshot
	scope    embedded.Range
	keysOnly bool

	mu    sync.Mutex
	from  string // below it everything was listed
	keys  *btree.BTreeG[undone]
	bytes int
	lost  bool
}

// undone is a key as it was in the snapshot; absent if its revision is 0.
type undone struct {
	key string
	embedded.Record
}

const undoBytes = 24 << 20

// undos are those of the lists under way.
type undos struct {
	mu  sync.Mutex
	all map[*undo]struct{}
}

func (s *undos) add(u *undo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[u] = struct{}{}
}

// remove may be called twice.
func (s *undos) remove(u *undo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, u)
}

func (s *undos) note(commits []*embedded.Commit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u := range s.all {
		u.note(commits)
	}
}

func newUndo(r embedded.Range, keysOnly bool) *undo {
	u := &undo{scope: r, keysOnly: keysOnly, from: r.Start()}
	u.keys = btree.NewG(16, func(a, b undone) bool { return a.key < b.key })
	return u
}

// note takes down what commits changed.
func (u *undo) note(commits []*embedded.Commit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range commits {
		if c.Revision <= u.revision {
			continue
		}
		for i := range c.Changes {
			u.noteChange(&c.Changes[i])
		}
	}
}

func (u *undo) noteChange(ch *embedded.Change) {
	if u.lost || ch.Adopted || ch.Key < u.from || !u.scope.Covers(ch.Key) {
		return
	}
	was := undone{ch.Key, ch.Prev}
	if u.keys.Has(was) {
		return
	}
	if u.keysOnly {
		was.Value = nil
	}
	u.bytes += 128 + len(was.key) + len(was.Value)
	if u.bytes > undoBytes || ch.PrevLost && !u.keysOnly {
		u.lost = true
		u.keys = nil
		return
	}
	u.keys.ReplaceOrInsert(was)
}

// overlay is what to read over pages at from and beyond, nil if nothing; what
// was noted for before is let go. ok is false if too much was changed.
func (u *undo) overlay(from string) (keys *btree.BTreeG[undone], ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lost {
		return nil, false
	}
	u.from = from
	for {
		first, any := u.keys.Min()
		if !any {
			u.bytes = 0
			return nil, true
		}
		if first.key >= from {
			return u.keys.Clone(), true
		}
		u.keys.DeleteMin()
		u.bytes -= 128 + len(first.key) + len(first.Value)
	}
}
