package boltkv

import (
	"context"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// Watch implements backend.Store.
func (s *Store) Watch(ctx context.Context, prefix string, o backend.WatchOptions) (backend.Watch, error) {
	st, err := s.checked(ctx, prefix)
	if err != nil {
		return nil, err
	}
	epoch, err := s.epoch(ctx, st)
	if err != nil {
		return nil, err
	}
	stream := embedded.Stream{
		Session: s.session.Done(), Store: "bolt", Epoch: epoch, Known: st.known, Root: s.layout.root,
		Prefix: prefix, WatchOptions: o,
	}
	if s.o.History != nil {
		stream.Log = s.replay
	}
	var w *embedded.Watcher
	if o.Snapshot {
		w, err = s.watchSnapshot(ctx, st, stream)
	} else {
		st.mu.Lock()
		stream.From = st.feed.Last()
		w, err = st.feed.Watch(ctx, stream)
		st.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return &watcher{w, s.engine, st}, nil
}

// watcher is an embedded.Watcher that does not answer before what readers see
// was published.
type watcher struct {
	*embedded.Watcher
	e  *engine
	st *state
}

// Sync implements backend.Watch.
func (w *watcher) Sync(ctx context.Context) error {
	if _, err := w.e.awaitVisible(ctx, w.st); err != nil {
		return err
	}
	return w.Watcher.Sync(ctx)
}

// epoch is what this engine's tokens carry: its generation, which has to be in
// the file for that.
func (e *engine) epoch(ctx context.Context, st *state) (string, error) {
	mine := generation{id: e.id}
	if e.db.IsReadOnly() { // nothing will happen; the tokens are those of the past
		st.genMu.Lock()
		defer st.genMu.Unlock()
		if n := len(st.generations); n > 0 {
			mine = st.generations[n-1]
		}
		return mine.epoch(), nil
	}
	if !st.known(mine.epoch(), st.feed.Last()) {
		if err := e.write(ctx, nil, func(*table) error { return nil }); err != nil {
			return "", err
		}
	}
	return mine.epoch(), nil
}

// watchSnapshot opens a stream that begins with a snapshot. What other
// programs have written is adopted first, so that it shows as existing.
func (s *Store) watchSnapshot(ctx context.Context, st *state, stream embedded.Stream) (w *embedded.Watcher, err error) {
	scope := embedded.RangeOf(stream.Prefix, backend.ListOptions{})
	if stream.Key {
		scope = embedded.RangeOfKey(stream.Prefix)
	} else if _, err := s.adoptBelow(ctx, stream.Prefix); err != nil {
		return nil, err
	}
	l := new(lister)
	var entries []backend.Entry // of the last page, which the watcher has taken
	stream.Page = func(ctx context.Context, _ string) ([]backend.Entry, error) {
		entries = entries[:0]
		for len(entries) == 0 && !l.page.done {
			if err := l.read(ctx); err != nil {
				return nil, err
			}
			for i := range l.page.lines {
				entries = append(entries, l.page.entry(i))
			}
		}
		return entries, nil
	}
	stream.Done = l.close
	err = l.start(ctx, s.engine, scope, false, func(rev backend.Revision) error {
		stream.From = rev
		w, err = st.feed.Watch(ctx, stream)
		return err
	})
	return w, err
}
