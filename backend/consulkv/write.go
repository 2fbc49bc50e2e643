package consulkv

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// put is one value to be written.
type put struct {
	name  string
	value []byte
	flags uint64
}

// Put implements backend.Store, in one round trip, except: If Present and
// AtRevision read first where this Store has not lately seen the key at that
// revision; a failed Absent looks whether the key has expired; and a key that a
// Lease keeps alive is taken from it by a second write.
//
// Errors: backend.ErrExists, ErrNotFound, ErrConflict, ErrInvalid, ErrTooLarge,
// ErrPermission, ErrUnavailable, ErrUncertain.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	name, err := s.name(key)
	if err != nil {
		return backend.Entry{}, err
	}
	if err := s.fits(value); err != nil {
		return backend.Entry{}, err
	}
	if err := validTTL(o.TTL, o.KeepTTL, o.If == backend.AtRevision); err != nil {
		return backend.Entry{}, err
	}
	var p api.KVPair
	switch w := (put{name, value, expiryFlags(o.TTL)}); o.If {
	case backend.Always:
		p, err = s.put(ctx, w)
	case backend.Absent:
		p, err = s.create(ctx, w)
	case backend.Present:
		p, err = s.update(ctx, w)
	case backend.AtRevision:
		p, err = s.compareAndSet(ctx, w, uint64(o.Revision), o.KeepTTL)
	default:
		err = fmt.Errorf("%w: condition %v of a put", backend.ErrInvalid, o.If)
	}
	if err != nil {
		return backend.Entry{}, err
	}
	s.wrote(p)
	return written(key, p), nil
}

func (s *Store) fits(value []byte) error {
	if limit := s.maxValue(); len(value) > limit {
		return fmt.Errorf("%w: the value has %d bytes, the limit is %d", backend.ErrTooLarge, len(value), limit)
	}
	return nil
}

func validTTL(ttl time.Duration, keep, atRevision bool) error {
	switch {
	case ttl < 0 || ttl > 0 && ttl < minTTL:
		return fmt.Errorf("%w: a TTL of %v, the least is %v", backend.ErrInvalid, ttl, minTTL)
	case keep && (ttl != 0 || !atRevision):
		return fmt.Errorf("%w: KeepTTL goes with a revision and without a TTL", backend.ErrInvalid)
	}
	return nil
}

// wrote remembers an entry that this Store has written.
func (s *Store) wrote(p api.KVPair) {
	s.facts.learn(p.Key, p.ModifyIndex, p.Flags, p.Session)
	s.reap.addOwn(p.Key, p.ModifyIndex, p.Flags)
}

func written(key string, p api.KVPair) backend.Entry {
	return backend.Entry{
		Key:      key,
		Revision: backend.Revision(p.ModifyIndex),
		Created:  backend.Revision(p.CreateIndex),
		Expires:  expiresAt(p.Flags),
	}
}

func (s *Store) put(ctx context.Context, w put) (api.KVPair, error) {
	o, err := s.apply(ctx, overwrite(nil, w.name, w.value, w.flags))
	if err != nil {
		return api.KVPair{}, err
	}
	pairs := []api.KVPair{o.of(w.name)}
	err = s.unbind(ctx, []put{w}, pairs)
	return pairs[0], err
}

// create writes an absent key. One that has expired is removed first, so that
// every watcher sees it go before it comes.
func (s *Store) create(ctx context.Context, w put) (api.KVPair, error) {
	var wait backoff.Backoff
	for {
		o, err := s.apply(ctx, []txnOp{checkAbsent(w.name), {kvOp{Verb: verbSet, Key: w.name, Value: w.value, Flags: w.flags}}})
		if err != nil {
			return api.KVPair{}, err
		}
		if o.ok() {
			return o.of(w.name), nil
		}
		if err := s.clear(ctx, w.name); err != nil {
			return api.KVPair{}, err
		}
		if !wait.Wait(ctx) {
			return api.KVPair{}, backend.ContextError(ctx)
		}
	}
}

// clear removes a key that was found present if it has expired. Otherwise, if
// it is still there, it is ErrExists.
func (s *Store) clear(ctx context.Context, name string) error {
	f, ok, err := s.get(ctx, name, consistent)
	switch {
	case err != nil:
		return err
	case !ok:
		return nil
	case !s.expired(f.flags, time.Now()):
		return backend.ErrExists
	}
	_, err = s.apply(ctx, []txnOp{checkIndex(name, f.modify), {kvOp{Verb: verbDelete, Key: name}}})
	return err
}

// update writes a key that is present.
func (s *Store) update(ctx context.Context, w put) (api.KVPair, error) {
	var wait backoff.Backoff
	for {
		f, err := s.visible(ctx, w.name, consistent)
		if err != nil {
			return api.KVPair{}, err
		}
		ops := replace([]txnOp{checkIndex(w.name, f.modify)}, w.name, w.value, w.flags, fact{session: f.session})
		o, err := s.apply(ctx, ops)
		if err != nil {
			return api.KVPair{}, err
		}
		if o.ok() {
			return o.of(w.name), nil
		}
		if !wait.Wait(ctx) {
			return api.KVPair{}, backend.ContextError(ctx)
		}
	}
}

func (s *Store) compareAndSet(ctx context.Context, w put, rev uint64, keepTTL bool) (api.KVPair, error) {
	f, err := s.at(ctx, w.name, rev)
	if err != nil {
		return api.KVPair{}, err
	}
	if keepTTL && expiryOf(f.flags) != 0 {
		w.flags = f.flags
	}
	o, err := s.apply(ctx, replace([]txnOp{checkIndex(w.name, rev)}, w.name, w.value, w.flags, f))
	switch {
	case err != nil:
		return api.KVPair{}, err
	case !o.ok():
		return api.KVPair{}, backend.ErrConflict
	}
	return o.of(w.name), nil
}

// at returns what is known of the key at rev, from a read if need be, or
// ErrConflict if rev cannot be its revision any more.
func (s *Store) at(ctx context.Context, name string, rev uint64) (fact, error) {
	if rev == 0 {
		return fact{}, fmt.Errorf("%w: revision 0", backend.ErrInvalid)
	}
	f, ok := s.facts.find(name, rev)
	if !ok {
		got, exists, err := s.get(ctx, name, consistent)
		if err != nil {
			return fact{}, err
		}
		if !exists || got.modify != rev {
			return fact{}, backend.ErrConflict
		}
		f = fact{rev: rev, flags: got.flags, session: got.session}
	}
	if s.expired(f.flags, time.Now()) {
		s.reap.add(name, rev, f.flags)
		return fact{}, backend.ErrConflict
	}
	return f, nil
}

// Delete implements backend.Store, in one round trip; AtRevision reads first
// as for Put. Errors: backend.ErrNotFound, ErrConflict, ErrPermission,
// ErrUnavailable, ErrUncertain.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	remove := txnOp{kvOp{Verb: verbDelete, Key: name}}
	switch o.If {
	case backend.Always, backend.Present:
		// get fails if there is nothing, and otherwise tells what went.
		o, err := s.apply(ctx, []txnOp{{kvOp{Verb: verbGet, Key: name}}, remove})
		if err != nil {
			return err
		}
		if !o.ok() || s.expired(o.of(name).Flags, time.Now()) {
			return backend.ErrNotFound
		}
		return nil
	case backend.AtRevision:
		if _, err := s.at(ctx, name, uint64(o.Revision)); err != nil {
			return err
		}
		out, err := s.apply(ctx, []txnOp{checkIndex(name, uint64(o.Revision)), remove})
		if err == nil && !out.ok() {
			err = backend.ErrConflict
		}
		return err
	}
	return fmt.Errorf("%w: condition %v of a delete", backend.ErrInvalid, o.If)
}

// DeletePrefix implements backend.Store. A first request reads the names; the
// second one, a transaction, reads and deletes, which costs what a List costs.
// Where the bookkeeping lies below prefix it goes key by key instead. Names
// below prefix that are no keys go as well. Errors: backend.ErrPermission,
// ErrUnavailable, ErrUncertain.
//
// The names are for the watchers. Of a recursive delete Consul remembers only
// the prefix, and a read that is held below that prefix is not told [tested on
// 1.19.2]. A name that is written and deleted in one step leaves a trace that
// wakes the readers of its directory and of those above, and is never seen.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	native, err := s.prefix(prefix)
	if err != nil {
		return 0, err
	}
	if s.holdsMeta(native) {
		return s.deleteEach(ctx, prefix)
	}
	names, _, err := s.names(ctx, native, consistent, "")
	if err != nil || len(names) == 0 {
		return 0, err
	}
	traces := s.traces(native, names)
	n := fit(traces, maxTxnOps-2)
	ops := append([]txnOp{{kvOp{Verb: verbGetTree, Key: native}}, {kvOp{Verb: verbDeleteTree, Key: native}}}, traces[:n]...)
	count, err := s.deleteTree(ctx, native, ops)
	if err != nil {
		return count, err
	}
	for traces = traces[n:]; len(traces) > 0; traces = traces[n:] {
		n = fit(traces, maxTxnOps)
		if _, err := s.apply(ctx, traces[:n]); err != nil {
			return count, err
		}
	}
	return count, nil
}

// fit is how many of traces go into one request, at most limit: whole pairs.
func fit(traces []txnOp, limit int) int {
	n, bytes := 0, 0
	for n < min(len(traces), limit) && bytes <= maxNames {
		bytes += 2 * len(traces[n].KV.Key)
		n += 2
	}
	return n
}

// traces are pairs of operations that leave a trace in each directory below a
// native prefix that has names.
func (s *Store) traces(native string, names []string) []txnOp {
	var ops []txnOp
	last := native
	for _, name := range names {
		dir := name[:strings.LastIndexByte(name, '/')+1]
		if dir == last || len(dir) <= len(native) {
			continue
		}
		last = dir
		trace := dir + s.trace()
		ops = append(ops, txnOp{kvOp{Verb: verbSet, Key: trace}}, txnOp{kvOp{Verb: verbDelete, Key: trace}})
	}
	return ops
}

// trace is a name that is never a key's.
func (s *Store) trace() string { return s.probe[strings.LastIndexByte(s.probe, '/')+1:] }

func (s *Store) deleteTree(ctx context.Context, native string, ops []txnOp) (int64, error) {
	resp, err := s.post(ctx, ops, "", true)
	if err != nil {
		return 0, err
	}
	defer resp.close()
	d := newScanner(resp.body)
	defer d.free()
	err = d.txn()
	now := time.Now()
	var n int64
	for err == nil {
		var p *pair
		if p, err = d.result(); err != nil {
			break
		}
		name := string(p.name)
		if _, ok := s.space.Key(name); ok && !strings.HasSuffix(name, "/"+s.trace()) && !s.expired(p.flags, now) {
			n++
		}
	}
	if err == io.EOF {
		return n, nil
	}
	return n, unreadable(err) // it is done, and only the count is not known
}

func (s *Store) deleteEach(ctx context.Context, prefix string) (int64, error) {
	var names []string
	for e, err := range s.List(ctx, prefix, backend.ListOptions{KeysOnly: true}) {
		if err != nil {
			return 0, err
		}
		names = append(names, s.space.Name(e.Key))
	}
	var n int64
	for len(names) > 0 {
		var ops []txnOp
		bytes := 0
		for _, name := range names {
			if len(ops) == maxTxnOps || bytes > maxNames {
				break
			}
			ops = append(ops, txnOp{kvOp{Verb: verbDelete, Key: name}})
			bytes += len(name)
		}
		if _, err := s.apply(ctx, ops); err != nil {
			return n, err
		}
		n += int64(len(ops))
		names = names[len(ops):]
	}
	return n, nil
}
