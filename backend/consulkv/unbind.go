package consulkv

import (
	"context"
	"errors"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// unbind finishes unconditional puts (R28: they clear what made the key go).
//
// A set leaves a key that a session owns to that session, and would go with
// it. An unconditional put cannot know in advance, since Consul has no
// condition for "no session or no key"; the answer tells. The same values are
// then written once more, taking the keys from their sessions, and the second
// revision is the one that counts. In between a watcher may see the value at
// the first one and, should the session end at just that moment, see the key
// gone and back.
//
// pairs are the results of puts; unbind updates them. The puts of one
// transaction share the second revision too, unless somebody else has written
// one of the keys by then.
func (s *Store) unbind(ctx context.Context, puts []put, pairs []api.KVPair) error {
	bound := false
	for _, p := range pairs {
		bound = bound || p.Session != ""
	}
	if !bound {
		return nil
	}
	err := s.rewrite(ctx, puts, pairs)
	if err != nil && !errors.Is(err, backend.ErrUncertain) {
		// What was asked for is done, but may go with somebody's session.
		err = backend.Because(backend.ErrUncertain, err)
	}
	return err
}

func (s *Store) rewrite(ctx context.Context, puts []put, pairs []api.KVPair) error {
	var checks, writes []txnOp
	for i, w := range puts {
		checks = append(checks, checkIndex(w.name, pairs[i].ModifyIndex))
		writes = replace(writes, w.name, w.value, w.flags, fact{session: pairs[i].Session})
	}
	if len(checks)+len(writes) <= maxTxnOps {
		o, err := s.apply(ctx, append(checks, writes...))
		if err != nil {
			return err
		}
		if o.ok() {
			for i, w := range puts {
				pairs[i] = o.of(w.name)
			}
			return nil
		}
	}
	for i, w := range puts {
		if pairs[i].Session == "" {
			continue
		}
		var err error
		if pairs[i], err = s.rewriteOne(ctx, w, pairs[i]); err != nil {
			return err
		}
	}
	return nil
}

// rewriteOne takes one key from its session, as long as it has what was put
// there. If the session has ended and the key with it, it is put again; if
// somebody else has written it since, theirs is the later write.
func (s *Store) rewriteOne(ctx context.Context, w put, p api.KVPair) (api.KVPair, error) {
	var wait backoff.Backoff
	for {
		o, err := s.apply(ctx, replace([]txnOp{checkIndex(w.name, p.ModifyIndex)}, w.name, w.value, w.flags, fact{session: p.Session}))
		if err != nil {
			return p, err
		}
		if o.ok() {
			return o.of(w.name), nil
		}
		o, err = s.apply(ctx, []txnOp{checkAbsent(w.name), {kvOp{Verb: verbSet, Key: w.name, Value: w.value, Flags: w.flags}}})
		if err != nil {
			return p, err
		}
		if o.ok() {
			return o.of(w.name), nil
		}
		now, ok, err := s.get(ctx, w.name, consistent)
		if err != nil {
			return p, err
		}
		if ok && now.modify != p.ModifyIndex {
			return p, nil
		}
		if !wait.Wait(ctx) {
			return p, backend.ContextError(ctx)
		}
	}
}
