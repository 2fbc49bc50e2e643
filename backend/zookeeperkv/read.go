package zookeeperkv

import (
	"context"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// Get implements backend.Store. It is one round trip on a connection of the driver's, the sync that makes it
// linearizable included, and two on a connection of the caller's.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	path, err := s.path(key)
	if err != nil {
		return backend.Entry{}, err
	}
	e, err := fresh(ctx, s, s.link, o, func() (backend.Entry, error) { return s.lookup(ctx, key, path) })
	if err == nil && e.Revision == 0 {
		return backend.Entry{}, backend.ErrNotFound
	}
	return e, err
}

// lookup reads one key, the zero Entry if it is absent.
func (s *Store) lookup(ctx context.Context, key, path string) (backend.Entry, error) {
	r, err := s.record(ctx, s.link, path, s.get)
	return s.visible(key, r), err
}

// visible is the entry of the key that r was read of, the zero Entry if it is absent.
func (s *Store) visible(key string, r record) backend.Entry {
	if !s.live(r) {
		return backend.Entry{}
	}
	e := r.entry(key)
	e.Value = r.data
	return e
}

// GetMany implements backend.Store. It is a request for 64 keys, behind one sync, and one a key on servers before 3.6 and on
// a connection of the caller's, sent without waiting for each other.
func (s *Store) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	paths := make([]string, len(keys))
	for i, key := range keys {
		var err error
		if paths[i], err = s.path(key); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, s.usable()
	}
	return fresh(ctx, s, s.link, o, func() ([]backend.Entry, error) {
		entries := make([]backend.Entry, len(keys))
		for done := 0; done < len(keys); {
			got, _ := s.readSome(ctx, paths[done:min(done+pageNodes, len(keys))], s.get, false)
			for _, f := range got {
				if f.err != nil {
					return nil, f.err
				}
				entries[done] = s.visible(keys[done], f.record)
				done++
			}
		}
		return entries, nil
	})
}

// fresh calls read so that what it reads is as recent as o asks: behind a sync, unless stale reads will do.
func fresh[T any](ctx context.Context, s *Store, l *link, o backend.GetOptions, read func() (T, error)) (T, error) {
	var zero T
	if o.AtLeast > 0 {
		if err := s.reach(ctx, l, o.AtLeast); err != nil {
			return zero, err
		}
	}
	if o.Stale {
		return read()
	}
	deadline := time.Now().Add(s.o.DialTimeout)
	for {
		b := l.sync(ctx, s.root)
		if err := b.wait(ctx, false); err != nil {
			if retryable(ctx, err, deadline) {
				continue
			}
			return zero, err
		}
		v, err := read()
		if err != nil {
			return zero, err
		}
		// Answers come in order: this one is there already, unless the connection broke in between.
		if err := b.wait(ctx, true); err != nil {
			if retryable(ctx, err, deadline) {
				continue
			}
			return zero, err
		}
		return v, nil
	}
}

// retryable reports whether a failed sync is worth another try. The wait for a connection is the next call's.
func retryable(ctx context.Context, err error, deadline time.Time) bool {
	return ctx.Err() == nil && isUnavailable(err) && time.Now().Before(deadline)
}

// reach waits until reads reflect rev.
func (s *Store) reach(ctx context.Context, l *link, rev backend.Revision) error {
	wait := backoff.Backoff{Max: 500 * time.Millisecond}
	for l.zxid() < int64(rev) {
		// A sync is answered at the leader's zxid, which a connection of the driver's can see. On the caller's, only
		// the Stat of a write tells.
		if l.wire != nil {
			b := l.sync(ctx, s.root)
			if err := b.wait(ctx, true); err != nil {
				return err
			}
		} else if err := s.tick(ctx, l); err != nil && ctx.Err() == nil {
			return unanswered(err)
		}
		if l.zxid() >= int64(rev) {
			return nil
		}
		if !wait.Wait(ctx) {
			return backend.ContextError(ctx)
		}
	}
	return nil
}

// tick writes to a node of the bookkeeping to learn the present zxid.
func (s *Store) tick(ctx context.Context, l *link) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	st, err := call(ctx, l, writes, func(c *zk.Conn) (*zk.Stat, error) { return c.Set(s.meta+"/clock", nil, -1) }, nil)
	if err == nil {
		l.saw(st.Mzxid)
	}
	return err
}
