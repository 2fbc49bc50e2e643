package etcdkv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Sync implements backend.Watch. A linearizable read tells which revision the
// stream has to reach. If it has not, the server is asked for progress until it
// has: it ignores the request while it still has events to send, and also while
// the store is where the watch began.
func (w *watcher) Sync(ctx context.Context) error {
	if err := w.q.failed(); err != nil {
		return err
	}
	rev, err := w.s.current(ctx, w.probe)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want = max(w.want, rev)
	if !w.prods && w.ctx.Err() == nil {
		w.prods = true
		w.helpers.Go(w.prod)
	}
	return nil
}

// prod asks for progress until it has come.
func (w *watcher) prod() {
	wait := backoff.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		if w.turn.TryLock() { // else the stream's goroutine has it, and answers
			w.answer()
			w.turn.Unlock()
		}
		w.mu.Lock()
		live := w.live
		if w.want == 0 || w.ctx.Err() != nil {
			w.prods = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		if live != nil {
			// An error is follow's to notice.
			_ = live.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		}
		wait.Wait(w.ctx)
	}
}

func (w *watcher) setLive(live *stream) {
	w.mu.Lock()
	w.live = live
	w.mu.Unlock()
}

// progress is told by the server that it has sent all events up to rev.
func (w *watcher) progress(rev int64, verifying bool) error {
	if rev < w.pos.rev {
		return nil // a member that lags
	}
	if verifying {
		return errOtherHistory // what has to come again is not there
	}
	if rev > w.pos.rev {
		w.pos = position{rev: rev, term: w.pos.term}
	}
	w.whole = true
	return nil
}

// answer gives the Sync calls what they wait for, if the stream has reached it.
// The caller has the turn. The event may go beyond the queue's bound: whoever
// calls Sync may be the one who reads.
func (w *watcher) answer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.whole && w.want != 0 && w.want <= w.pos.rev {
		w.want = 0
		w.q.add(w.mark(backend.Progress))
	}
}

// ordersProgress refuses servers that answer requests for progress ahead of the
// events that they owe.
func (s *Store) ordersProgress(ctx context.Context) error {
	if s.progressOK.Load() {
		return s.usable(ctx)
	}
	resp, err := call(ctx, s, reads, s.maint.Status, &pb.StatusRequest{})
	switch {
	case errors.Is(err, backend.ErrPermission): // only later servers keep it from users
	case err != nil:
		return err
	case !progressInOrder(resp.Version):
		return fmt.Errorf("%w: watches need etcd 3.4.25, 3.5.8 or later, the server is %q", errors.ErrUnsupported, resp.Version)
	}
	s.progressOK.Store(true)
	return nil
}

// progressInOrder reports whether a server of that version sends a requested
// progress response behind the events before it: etcd-io/etcd#15220, mended in
// 3.4.25 and 3.5.8.
func progressInOrder(version string) bool {
	v, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	since := semver.Version{Major: 3, Minor: 4, Patch: 25}
	if v.Major == 3 && v.Minor == 5 {
		since = semver.Version{Major: 3, Minor: 5, Patch: 8}
	}
	return !v.LessThan(since)
}
