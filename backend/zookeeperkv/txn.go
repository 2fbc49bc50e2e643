package zookeeperkv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Commit implements backend.Store. It reads the keys side by side, decides, and sends one Multi that checks that
// nothing has moved since, again until nothing has: two round trips.
func (s *Store) Commit(ctx context.Context, t backend.Txn) (backend.TxnResult, error) {
	if err := s.usable(); err != nil {
		return backend.TxnResult{}, err
	}
	done, err := s.commit(ctx, t, terms{})
	if err != nil {
		return backend.TxnResult{}, err
	}
	for _, w := range t.Writes {
		if w.TTL > 0 {
			s.reaper.start()
		}
	}
	res := backend.TxnResult{Entries: make([]backend.Entry, len(t.Writes))}
	if len(t.Writes) > 0 {
		res.Revision = done.revision
	}
	for i, w := range t.Writes {
		res.Entries[i] = done.targets[w.Key].entry()
	}
	return res, nil
}

// target is one key of a transaction: what is asked of it, what was found, what was done.
type target struct {
	key, path string
	check     *backend.Check
	index     int // of check in Txn.Checks
	write     *backend.Write
	value     []byte // the driver's own copy, never nil

	record
	guard   int32    // the version of the path's guard, read before the record
	missing []string // the directories above that are not there, the topmost first

	was  bool // there was a live key
	skip bool // leave it alone

	setOp   int     // the operation whose Stat is the new value's
	stampOp int     // the operation that writes the stamp
	stat2   zk.Stat // after the write
	stamp2  *stamp  // after the write, or nil
}

func (t *target) entry() backend.Entry {
	if t.write.Delete {
		return backend.Entry{Key: t.key}
	}
	r := record{node: node{stat: t.stat2}, stamp: t.stamp2}
	return r.entry(t.key)
}

// committed is a transaction that was applied.
type committed struct {
	revision backend.Revision
	targets  map[string]*target
}

// terms are what this package asks of a transaction besides.
type terms struct {
	lease string // the TTL is that of the lease with this name
	reap  bool   // delete only what has expired
}

// commit is Commit with all that the callers in this package want to know.
func (s *Store) commit(ctx context.Context, t backend.Txn, with terms) (committed, error) {
	tx := &txn{s: s, terms: with, targets: map[string]*target{}}
	if err := tx.take(t); err != nil {
		return committed{}, err
	}
	if err := s.prepare(ctx); err != nil {
		return committed{}, err
	}
	wait := backoff.Backoff{Min: time.Millisecond, Max: 100 * time.Millisecond}
	for {
		rev, again, err := tx.attempt(ctx)
		if err != nil || !again {
			return committed{rev, tx.targets}, err
		}
		if tx.attempts > 2 && !wait.Wait(ctx) {
			return committed{}, backend.ContextError(ctx)
		}
	}
}

// txn is a transaction on its way.
type txn struct {
	terms
	s       *Store
	order   []*target
	targets map[string]*target
	held    []backend.Check // on locks
	heldAt  []int           // their indices in Txn.Checks

	attempts int
	deep     bool                 // look which directories are missing
	dirs     map[string]directory // that keys are deleted from
	plan
}

// take copies what the transaction asks for.
func (tx *txn) take(t backend.Txn) error {
	at := func(key string) (*target, error) {
		if g := tx.targets[key]; g != nil {
			return g, nil
		}
		path, err := tx.s.name(key)
		if err != nil {
			return nil, err
		}
		g := &target{key: key, path: path}
		tx.targets[key] = g
		tx.order = append(tx.order, g)
		return g, nil
	}
	for i := range t.Checks {
		c := t.Checks[i]
		if c.If == backend.LockHeld {
			if !strings.HasPrefix(c.Holder, tx.s.meta+"/lock/") {
				return fmt.Errorf("%w: not a holder of this store's", backend.ErrInvalid)
			}
			tx.held, tx.heldAt = append(tx.held, c), append(tx.heldAt, i)
			continue
		}
		g, err := at(c.Key)
		if err != nil {
			return err
		}
		g.check, g.index = &c, i
	}
	size := 0
	for i := range t.Writes {
		w := t.Writes[i]
		g, err := at(w.Key)
		if err != nil {
			return err
		}
		if err := tx.s.fitsValue(g.path, w.Value); err != nil {
			return err
		}
		size += len(w.Key) + len(w.Value)
		g.write = &w
		if !w.Delete {
			g.value = append(make([]byte, 0, len(w.Value)), w.Value...)
		}
	}
	if len(t.Writes) == 1 {
		return nil
	}
	return tx.s.fitsTxn(size)
}

// attempt looks, decides and tries once.
func (tx *txn) attempt(ctx context.Context) (rev backend.Revision, again bool, err error) {
	tx.attempts++
	if err := tx.survey(ctx); err != nil {
		return 0, false, err
	}
	if failed := tx.failed(); failed != nil {
		// A server that lags behind may have told of the past.
		if tx.attempts == 1 {
			return 0, true, nil
		}
		if lost := tx.lost(ctx); lost != nil {
			failed = lost
		}
		return 0, false, failed
	}
	if err := tx.build(ctx); err != nil {
		return 0, false, err
	}
	if len(tx.ops) == 0 {
		return 0, false, nil
	}
	res, failed, err := tx.s.multi(ctx, tx.s.link, tx.ops, nil)
	if err == nil {
		for _, dir := range tx.later {
			tx.s.tidy(func(ctx context.Context) { tx.s.tidyUp(ctx, dir) })
		}
		return tx.collect(res), false, nil
	}
	if !moved(err) || failed < 0 {
		return 0, false, err
	}
	tag := tx.tags[failed]
	switch tag.kind {
	case ofLock:
		if errors.Is(err, zk.ErrNoNode) {
			return 0, false, tx.lockLost(tag.i)
		}
	case ofGuard:
		tx.s.guards.forget(tag.i)
	case ofDue:
		tx.s.reaper.known(int64(tag.i), errors.Is(err, zk.ErrNodeExists))
	case ofKey:
		tx.deep = tx.deep || errors.Is(err, zk.ErrNoNode)
	}
	return 0, true, nil
}

// survey reads every key, side by side.
func (tx *txn) survey(ctx context.Context) error {
	s := tx.s
	if tx.attempts > 1 {
		if err := s.link.sync(ctx, s.root).wait(ctx, true); err != nil {
			return err
		}
	}
	tx.dirs = map[string]directory{}
	var dirs []string
	for _, g := range tx.order {
		if dir := parent(g.path); g.write != nil && g.write.Delete && s.inside(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	var mu sync.Mutex
	return parallel(ctx, len(tx.order)+len(dirs), func(ctx context.Context, i int) (err error) {
		if i >= len(tx.order) {
			path := dirs[i-len(tx.order)]
			d, err := s.directory(ctx, path, s.exists)
			mu.Lock()
			tx.dirs[path] = d
			mu.Unlock()
			return err
		}
		g := tx.order[i]
		if g.guard, err = s.guards.of(ctx, guardOf(g.path)); err != nil {
			return err
		}
		if g.record, err = s.record(ctx, s.link, g.path, s.head); err != nil {
			return err
		}
		g.was = s.live(g.record)
		g.skip = tx.reap && g.was
		g.missing = nil
		if tx.deep && !g.exists {
			g.missing, err = s.missing(ctx, g.path)
		}
		return err
	})
}

// directory is what is known of a directory that may have been emptied.
type directory struct {
	node
	guard int32 // from before the node was read
}

func (s *Store) directory(ctx context.Context, path string, read reading) (d directory, err error) {
	if d.guard, err = s.guards.of(ctx, guardOf(path)); err != nil {
		return d, err
	}
	d.node, err = read(ctx, s.link, path)
	return d, err
}

// missing returns the directories above path that are not there, the topmost first.
func (s *Store) missing(ctx context.Context, path string) ([]string, error) {
	above := ancestors(path)
	there := make([]bool, len(above))
	err := parallel(ctx, len(above), func(ctx context.Context, i int) error {
		n, err := s.exists(ctx, s.link, above[i])
		there[i] = n.exists
		return err
	})
	for i := len(above); i > 0 && err == nil; i-- {
		if there[i-1] {
			return above[i:], nil
		}
	}
	return above, err
}

// lost returns the check of a lock that is no longer held: of all that fail it is told first. It reads after the survey's
// sync, so that no server has an older answer.
func (tx *txn) lost(ctx context.Context) error {
	there := make([]bool, len(tx.held))
	err := parallel(ctx, len(tx.held), func(ctx context.Context, i int) error {
		n, err := tx.s.exists(ctx, tx.s.link, tx.held[i].Holder)
		there[i] = n.exists
		return err
	})
	if err != nil {
		return err
	}
	if i := slices.Index(there, false); i >= 0 {
		return tx.lockLost(i)
	}
	return nil
}

// lockLost is the error of the lock check numbered i.
func (tx *txn) lockLost(i int) error {
	return &backend.CheckError{Index: tx.heldAt[i], Key: tx.held[i].Key, Err: backend.ErrLockLost}
}

// failed returns the first check of a key that does not hold.
func (tx *txn) failed() error {
	var first *target
	for _, g := range tx.order {
		c := g.check
		if c == nil {
			continue
		}
		ok := true
		switch c.If {
		case backend.Absent:
			ok = !g.was
		case backend.Present:
			ok = g.was
		case backend.AtRevision:
			ok = g.was && g.revision() == c.Revision
		}
		if !ok && (first == nil || g.index < first.index) {
			first = g
		}
	}
	if first == nil {
		return nil
	}
	return &backend.CheckError{Index: first.index, Key: first.key, Err: first.check.If.Failed()}
}

// collect notes what the server answered.
func (tx *txn) collect(res []zk.MultiResponse) backend.Revision {
	var rev backend.Revision
	for i, tag := range tx.tags {
		st := res[i].Stat
		if st != nil {
			rev = backend.Revision(st.Mzxid)
		}
		switch {
		case tag.kind == ofGuard && st != nil:
			tx.s.guards.set(tag.i, st.Version)
		case tag.kind == ofDue:
			tx.s.reaper.known(int64(tag.i), true)
		}
	}
	for _, g := range tx.order {
		if g.write == nil || g.write.Delete {
			continue
		}
		g.stat2 = *res[g.setOp].Stat
		if t := g.stamp2; t != nil {
			t.tie = g.stat2.Mzxid
			t.version = 0
			if st := res[g.stampOp].Stat; st != nil {
				t.version = st.Version
			}
		}
	}
	return rev
}
