package embedded

import (
	"context"
	"sort"
	"sync"

	"github.com/polykv/kv/backend"
)

// Feed holds the latest commits in a ring and the watchers that read it. A
// watcher's position is the revision up to which it has taken everything, so
// that resuming is the same as reading on.
//
// The ring is bounded in bytes, but always holds the latest commit. A commit
// that leaves it is lost only to a watcher that has it still to come *and*
// covers one of its keys: others are moved past it. A slow reader of a quiet
// prefix is therefore not harmed by traffic elsewhere.
type Feed struct {
	limit int

	mu       sync.Mutex
	ring     []*Commit // by revision
	bytes    int
	floor    backend.Revision // the ring is complete above it
	last     backend.Revision // of the latest commit
	watchers map[*Watcher]struct{}
	advanced chan struct{} // closed when last grows; nil while nobody waits
}

// NewFeed returns a feed that begins after revision last and holds about limit
// bytes of commits.
func NewFeed(last backend.Revision, limit int) *Feed {
	return &Feed{limit: limit, floor: last, last: last, watchers: map[*Watcher]struct{}{}}
}

// Publish adds commits, in the order of their revisions. The caller makes
// sure that no two calls overlap and that what is published is durable.
func (f *Feed) Publish(commits ...*Commit) {
	if len(commits) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range commits {
		for w := range f.watchers {
			if w.pos < f.last || w.covers(c) {
				w.wakeUp()
			} else {
				w.pos = c.Revision // nothing is outstanding, and this is not for it
			}
		}
		f.ring = append(f.ring, c)
		f.bytes += c.Size()
		f.last = c.Revision
	}
	for f.bytes > f.limit && len(f.ring) > 1 {
		f.drop()
	}
	if f.advanced != nil {
		close(f.advanced)
		f.advanced = nil
	}
}

// Skip tells that there are commits up to rev which the feed will never see.
// Nobody reads across them: watchers that come from before find their history
// lost, or read it from their log.
func (f *Feed) Skip(rev backend.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rev <= f.last {
		return
	}
	clear(f.ring)
	f.ring, f.bytes, f.floor, f.last = nil, 0, rev, rev
	for w := range f.watchers {
		w.wakeUp()
	}
	if f.advanced != nil {
		close(f.advanced)
		f.advanced = nil
	}
}

// drop lets go of the oldest commit.
func (f *Feed) drop() {
	c := f.ring[0]
	for w := range f.watchers {
		if w.pos >= f.floor && w.pos < c.Revision && !w.covers(c) {
			w.pos = c.Revision
		}
	}
	f.ring[0] = nil
	f.ring = f.ring[1:] // append moves the rest to a new array in time
	f.bytes -= c.Size()
	f.floor = c.Revision
}

// after is the index of the first commit above rev. The caller holds mu.
func (f *Feed) after(rev backend.Revision) int {
	return sort.Search(len(f.ring), func(i int) bool { return f.ring[i].Revision > rev })
}

// Last is the revision of the latest commit.
func (f *Feed) Last() backend.Revision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Wait waits until the feed has reached rev. done ends it with ErrClosed.
func (f *Feed) Wait(ctx context.Context, rev backend.Revision, done <-chan struct{}) error {
	for {
		f.mu.Lock()
		if f.last >= rev {
			f.mu.Unlock()
			return nil
		}
		if f.advanced == nil {
			f.advanced = make(chan struct{})
		}
		ch := f.advanced
		f.mu.Unlock()
		select {
		case <-ch:
		case <-done:
			return backend.ErrClosed
		case <-ctx.Done():
			return backend.ContextError(ctx)
		}
	}
}

// End ends with err the watchers of one session, or all with a nil done.
func (f *Feed) End(done <-chan struct{}, err error) {
	f.mu.Lock()
	var watchers []*Watcher
	for w := range f.watchers {
		if done == nil || w.s.Session == done {
			watchers = append(watchers, w)
		}
	}
	f.mu.Unlock()
	for _, w := range watchers {
		w.end(err)
	}
}
