package zookeeperkv

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// Put implements backend.Store. Without conditions and TTL it is one round trip for a node that is there and two to
// make one, three or four if directories are missing; an IfAbsent is one where there is no node. Everything else is a transaction of
// two round trips.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	path, err := s.path(key)
	if err != nil {
		return backend.Entry{}, err
	}
	if err := s.fitsValue(path, value); err != nil {
		return backend.Entry{}, err
	}
	if o.TTL == 0 && (o.If == backend.Always || o.If == backend.Absent) {
		e, done, err := s.putPlain(ctx, key, path, value, o.If == backend.Absent)
		if err != nil || done {
			return e, err
		}
	}
	t := backend.Txn{Writes: []backend.Write{{Key: key, Value: value, TTL: o.TTL, KeepTTL: o.KeepTTL}}}
	if o.If != backend.Always {
		t.Checks = []backend.Check{{If: o.If, Key: key, Revision: o.Revision}}
	}
	done, err := s.single(ctx, t, terms{})
	if err != nil {
		return backend.Entry{}, err
	}
	if o.TTL > 0 {
		s.reaper.start()
	}
	return done.targets[key].entry(), nil
}

// single is commit for the write of one key.
func (s *Store) single(ctx context.Context, t backend.Txn, with terms) (committed, error) {
	done, err := s.commit(ctx, t, with)
	var check *backend.CheckError
	if errors.As(err, &check) {
		return done, check.Err
	}
	return done, err
}

// putPlain sets a node that is there, and makes one otherwise. It reports false where more has to be known.
func (s *Store) putPlain(ctx context.Context, key, path string, value []byte, absent bool) (backend.Entry, bool, error) {
	// A copy: the request may outlive the call. Never nil, which would make a directory of the node.
	value = append(make([]byte, 0, len(value)), value...)
	var above []string // directories to make as well
	for range 5 {
		if !absent {
			st, err := call(ctx, s.link, writes, func(c *zk.Conn) (*zk.Stat, error) { return c.Set(path, value, -1) }, nil)
			if err == nil {
				return s.written(key, st), true, nil
			}
			if !errors.Is(err, zk.ErrNoNode) {
				return backend.Entry{}, false, err
			}
		}
		// Only a set answers with a Stat, so the node is made empty first; nobody sees it so.
		ops := make([]any, 0, len(above)+2)
		for _, dir := range above {
			ops = append(ops, &zk.CreateRequest{Path: dir, Acl: s.o.ACL})
		}
		ops = append(ops, &zk.CreateRequest{Path: path, Acl: s.o.ACL}, &zk.SetDataRequest{Path: path, Data: value})
		res, failed, err := s.multi(ctx, s.link, ops, nil)
		switch {
		case err == nil:
			return s.written(key, res[len(res)-1].Stat), true, nil
		case !moved(err):
			return backend.Entry{}, false, err
		case errors.Is(err, zk.ErrNoNode), failed < len(above):
			if above, err = s.missing(ctx, path); err != nil {
				return backend.Entry{}, false, err
			}
		case absent:
			return backend.Entry{}, false, nil
		}
	}
	return backend.Entry{}, false, nil
}

// written is the entry of a key that was put, without expiry.
func (s *Store) written(key string, st *zk.Stat) backend.Entry {
	s.link.saw(st.Mzxid)
	return record{node: node{stat: *st}}.entry(key)
}

// Delete implements backend.Store, in two round trips. The same Multi removes the directories that are empty
// afterwards.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	if err := s.usable(); err != nil {
		return err
	}
	if o.If == backend.Always {
		o.If = backend.Present
	}
	_, err := s.single(ctx, backend.Txn{
		Checks: []backend.Check{{If: o.If, Key: key, Revision: o.Revision}},
		Writes: []backend.Write{{Key: key, Delete: true}},
	}, terms{})
	return err
}

// DeletePrefix implements backend.Store. It deletes in transactions of up to 64 keys, one after another.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	var count int64
	var t backend.Txn
	flush := func() error {
		if len(t.Writes) == 0 {
			return nil
		}
		done, err := s.commit(ctx, t, terms{})
		t.Writes = t.Writes[:0]
		if err != nil {
			return err
		}
		for _, g := range done.targets {
			if g.was {
				count++
			}
		}
		return nil
	}
	for e, err := range s.List(ctx, prefix, backend.ListOptions{KeysOnly: true}) {
		if err != nil {
			return count, err
		}
		t.Writes = append(t.Writes, backend.Write{Key: e.Key, Delete: true})
		if len(t.Writes) == backend.MaxTxnOps {
			if err := flush(); err != nil {
				return count, err
			}
		}
	}
	return count, flush()
}
