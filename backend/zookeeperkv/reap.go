package zookeeperkv

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// reaper deletes keys that have expired. Every store that watches, or writes keys with a TTL, has one running (R24);
// when several do the same work, one of them wins each Multi. It asks the server for nothing while nothing is due.
type reaper struct {
	s *Store

	mu      sync.Mutex
	seconds map[int64]bool // nodes below META/due that are there
	cancel  context.CancelFunc
	done    chan struct{}
	stopped bool
}

// known notes whether the node of a second is there.
func (r *reaper) known(second int64, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seconds == nil || len(r.seconds) > 1024 {
		r.seconds = map[int64]bool{}
	}
	if there {
		r.seconds[second] = true
	} else {
		delete(r.seconds, second)
	}
}

func (r *reaper) isKnown(second int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seconds[second]
}

// start makes sure that the reaper runs.
func (r *reaper) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done != nil || r.stopped {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		r.run(ctx)
	}()
}

func (r *reaper) stop() {
	r.mu.Lock()
	r.stopped = true
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
}

func (r *reaper) run(ctx context.Context) {
	var wait backoff.Backoff
	for ctx.Err() == nil {
		err := r.round(ctx)
		switch {
		case err == nil:
			wait.Reset()
		case errors.Is(err, backend.ErrClosed), ctx.Err() != nil:
			return
		case errors.Is(err, backend.ErrPermission), errors.Is(err, backend.ErrNewerSchema), errors.Is(err, backend.ErrCorrupt):
			r.s.o.Logger.Warn("zookeeper: expired keys are not removed by this client", "error", err)
			return
		default:
			r.s.o.Logger.Debug("zookeeper: removing expired keys", "error", err)
			wait.Wait(ctx)
		}
	}
}

// listAgain is how long after a change the seconds are listed again.
const listAgain = time.Second

// round looks what is due, deals with it, and waits for the next that will be.
func (r *reaper) round(ctx context.Context) error {
	l := r.s.link
	epoch, _ := l.session.now()
	changed := l.session.changed()
	seconds, fired, err := r.due(ctx)
	if err != nil {
		return err
	}
	var next <-chan time.Time
	for _, second := range seconds {
		at := time.Unix(second, 0).Add(r.s.o.ClockSkew + time.Millisecond)
		if d := time.Until(at); d > 0 {
			t := time.NewTimer(d + rand.N(200*time.Millisecond)) // not all clients at once
			defer t.Stop()
			next = t.C
			break
		}
		if err := r.reap(ctx, second); err != nil {
			return err
		}
	}
	var again <-chan time.Time
	for {
		select {
		case <-fired:
			// A new second may come before the next that was listed. It lies a second ahead, as no TTL is shorter, and there
			// may be one every second: there is no hurry.
			fired = nil
			t := time.NewTimer(listAgain)
			defer t.Stop()
			again = t.C
		case <-again:
			return nil
		case <-next:
			return nil
		case <-changed:
			// The watch may have been lost with the connection.
			now, up := l.session.now()
			if up && now != epoch {
				return nil
			}
			changed = l.session.changed()
		case <-ctx.Done():
			return nil
		}
	}
}

// due lists the seconds under which stamps are listed, in order, and watches the list.
func (r *reaper) due(ctx context.Context) ([]int64, <-chan zk.Event, error) {
	type answer struct {
		names []string
		fired <-chan zk.Event
	}
	dir := r.s.meta + "/due"
	a, err := call(ctx, r.s.link, reads, func(c *zk.Conn) (answer, error) {
		for {
			names, _, fired, err := c.ChildrenW(dir)
			if !errors.Is(err, zk.ErrNoNode) {
				return answer{names, fired}, err
			}
			ok, _, fired, err := c.ExistsW(dir)
			if err != nil || !ok {
				return answer{nil, fired}, err
			}
		}
	}, nil)
	if err != nil {
		return nil, nil, err
	}
	seconds := make([]int64, 0, len(a.names))
	for _, name := range a.names {
		if n, err := strconv.ParseInt(name, 10, 64); err == nil {
			seconds = append(seconds, n)
		}
	}
	slices.Sort(seconds)
	return seconds, a.fired, nil
}

// reap deals with the stamps that are listed under a second that is over.
func (r *reaper) reap(ctx context.Context, second int64) error {
	s := r.s
	names, ok, err := s.children(ctx, s.link, s.duePath(second))
	if err != nil || !ok {
		return err
	}
	for chunk := range slices.Chunk(names, backend.MaxTxnOps) {
		if err := r.chunk(ctx, second, chunk); err != nil {
			return err
		}
	}
	r.known(second, false)
	return s.unless(s.delete(ctx, s.duePath(second)))
}

// chunk deletes the keys of one second's stamps that have expired, and lists the others anew.
func (r *reaper) chunk(ctx context.Context, second int64, names []string) error {
	s := r.s
	stamps := make([]*stamp, len(names))
	err := parallel(ctx, len(names), func(ctx context.Context, i int) error {
		at, ok := parseSlot(names[i])
		if !ok {
			return nil
		}
		n, err := s.get(ctx, s.link, s.stampPath(at))
		if err == nil && n.data != nil {
			stamps[i], err = parseStamp(n)
		}
		if err == nil && stamps[i] != nil && stamps[i].due == second && !s.expired(stamps[i]) {
			err = r.relist(ctx, *stamps[i], at)
			stamps[i] = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	t := backend.Txn{}
	for _, stamp := range stamps {
		if stamp == nil || stamp.due != second {
			continue
		}
		if key, ok := s.space.Key(stamp.path); ok {
			t.Writes = append(t.Writes, backend.Write{Key: key, Delete: true})
		}
	}
	if len(t.Writes) > 0 {
		if _, err := s.commit(ctx, t, terms{reap: true}); err != nil {
			return err
		}
	}
	// What is listed still is listed in vain, or was extended this moment.
	return parallel(ctx, len(names), func(ctx context.Context, i int) error {
		return s.unless(r.unlist(ctx, second, names[i]))
	})
}

// unlist removes a listing that no stamp stands for.
func (r *reaper) unlist(ctx context.Context, second int64, name string) error {
	s := r.s
	at, ok := parseSlot(name)
	if ok {
		n, err := s.get(ctx, s.link, s.stampPath(at))
		if err != nil {
			return err
		}
		if n.data != nil {
			if t, err := parseStamp(n); err == nil && t.due == second {
				if s.expired(t) {
					return nil
				}
				return r.relist(ctx, *t, at) // extended this moment
			}
		}
	}
	return s.delete(ctx, s.duePath(second)+"/"+name)
}

// relist lists a stamp that was extended under the second in which it expires now.
func (r *reaper) relist(ctx context.Context, t stamp, at slot) error {
	s := r.s
	old := t.due
	t.due = (t.expires + 999) / 1000
	if err := s.unless(s.create(ctx, s.link, s.duePath(t.due), nil)); err != nil {
		return err
	}
	_, _, err := s.multi(ctx, s.link, []any{
		&zk.DeleteRequest{Path: s.duePathOf(old, at), Version: -1},
		&zk.CreateRequest{Path: s.duePathOf(t.due, at), Acl: s.o.ACL},
		&zk.SetDataRequest{Path: s.stampPath(at), Data: t.encode(true), Version: t.version},
	}, nil)
	return s.unless(err)
}

// delete removes a node without children.
func (s *Store) delete(ctx context.Context, path string) error {
	_, err := call(ctx, s.link, writes, func(c *zk.Conn) (struct{}, error) { return struct{}{}, c.Delete(path, -1) }, nil)
	return err
}

// unless forgives an error that says that another client was faster.
func (s *Store) unless(err error) error {
	if moved(err) {
		return nil
	}
	return err
}

// parseSlot reads the name of a listing.
func parseSlot(name string) (slot, bool) {
	if len(name) != 3+32 {
		return slot{}, false
	}
	return slot{name[:3], name[3:]}, true
}
