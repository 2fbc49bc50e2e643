package consulkv

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// found is an entry as the server has it, expired or not.
type found struct {
	value                 []byte
	flags, create, modify uint64
	session               string
}

func (f found) entry(key string) backend.Entry {
	return backend.Entry{
		Key:      key,
		Value:    f.value,
		Revision: backend.Revision(f.modify),
		Created:  backend.Revision(f.create),
		Expires:  expiresAt(f.flags),
	}
}

func (p *pair) found(value []byte) found {
	return found{value, p.flags, p.create, p.modify, string(p.session)}
}

// get reads one native name.
func (s *Store) get(ctx context.Context, name string, m mode) (f found, ok bool, err error) {
	return s.getWhen(ctx, name, m, false)
}

// getLate is get for cleaning up.
func (s *Store) getLate(ctx context.Context, name string) (f found, ok bool, err error) {
	return s.getWhen(ctx, name, consistent, true)
}

func (s *Store) getWhen(ctx context.Context, name string, m mode, late bool) (f found, ok bool, err error) {
	resp, err := s.ask(ctx, name, request{query: string(m), late: late})
	if err != nil {
		return found{}, false, err
	}
	defer resp.close()
	d := newScanner(resp.body)
	defer d.free()
	if err := d.list(); err != nil {
		return found{}, false, unreadable(err)
	}
	p, err := d.next()
	if err == io.EOF {
		return found{}, false, nil
	}
	if err != nil {
		return found{}, false, unreadable(err)
	}
	value, err := p.value()
	if err != nil {
		return found{}, false, unreadable(err)
	}
	f = p.found(value)
	s.facts.learn(name, f.modify, f.flags, f.session)
	return f, true, nil
}

// unreadable is the error of a body that ended early or makes no sense.
func unreadable(err error) error {
	if err == errSyntax || err == io.ErrUnexpectedEOF {
		return backend.Because(backend.ErrUnavailable, err)
	}
	return err // classified by bodyReader, or base64's
}

// visible reads one native name, and has the entry reaped if it has expired.
func (s *Store) visible(ctx context.Context, name string, m mode) (found, error) {
	f, ok, err := s.get(ctx, name, m)
	switch {
	case err != nil:
		return found{}, err
	case !ok:
		return found{}, backend.ErrNotFound
	case s.expired(f.flags, time.Now()):
		s.reap.add(name, f.modify, f.flags)
		return found{}, backend.ErrNotFound
	}
	return f, nil
}

// Get implements backend.Store, in one round trip. With AtLeast there is a
// second one if this Store has not seen that revision yet.
// Errors: backend.ErrNotFound, ErrPermission, ErrUnavailable.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	name, err := s.name(key)
	if err != nil {
		return backend.Entry{}, err
	}
	m, err := s.mode(ctx, o)
	if err != nil {
		return backend.Entry{}, err
	}
	f, err := s.visible(ctx, name, m)
	if err != nil {
		return backend.Entry{}, err
	}
	return f.entry(key), nil
}

// mode is the consistency that o asks for. With AtLeast it first waits until
// the store has reached that revision; a consistent read then reflects it.
func (s *Store) mode(ctx context.Context, o backend.GetOptions) (mode, error) {
	if o.AtLeast != 0 {
		return consistent, s.reach(ctx, uint64(o.AtLeast))
	}
	if o.Stale {
		return stale, nil
	}
	return consistent, nil
}

// reach waits until the KV store is at index. A read of a name that does not
// exist answers with the index of the whole store's last change; it cannot be
// waited for, because it blocks until that name is written.
func (s *Store) reach(ctx context.Context, index uint64) error {
	wait := backoff.Backoff{Max: 500 * time.Millisecond}
	for s.seen.Load() < index {
		resp, err := s.fetch(ctx, s.probe, false, consistent, "")
		if err != nil {
			return err
		}
		resp.close()
		if resp.index >= index {
			return nil
		}
		if !wait.Wait(ctx) {
			return backend.ContextError(ctx)
		}
	}
	return nil
}

// GetMany implements backend.Store, in one round trip for every 128 keys,
// which are read as of one moment. Errors: as for Get, save ErrNotFound.
func (s *Store) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		var err error
		if names[i], err = s.name(k); err != nil {
			return nil, err
		}
	}
	m, err := s.mode(ctx, o)
	if err != nil {
		return nil, err
	}
	entries := make([]backend.Entry, len(keys))
	now := time.Now()
	err = s.getMany(ctx, names, m, func(i int, f found) {
		if s.expired(f.flags, now) {
			s.reap.add(names[i], f.modify, f.flags)
			return
		}
		entries[i] = f.entry(keys[i])
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// maxNames is how many bytes of names go into one request: they may grow
// sixfold in JSON.
const maxNames = 64 << 10

// getMany calls each for every name that exists.
func (s *Store) getMany(ctx context.Context, names []string, m mode, each func(i int, f found)) error {
	for start := 0; start < len(names); {
		var ops []txnOp
		bytes := 0
		for _, n := range names[start:] {
			if len(ops) == maxTxnOps || bytes > maxNames {
				break
			}
			ops = append(ops, txnOp{kvOp{Verb: verbGetOrEmpty, Key: n}})
			bytes += len(n)
		}
		if err := s.getPage(ctx, ops, m, func(i int, f found) { each(start+i, f) }); err != nil {
			return err
		}
		start += len(ops)
	}
	return nil
}

func (s *Store) getPage(ctx context.Context, ops []txnOp, m mode, each func(i int, f found)) error {
	resp, err := s.post(ctx, ops, m, false)
	if err != nil {
		return err
	}
	defer resp.close()
	d := newScanner(resp.body)
	defer d.free()
	if err := d.txn(); err != nil {
		return unreadable(err)
	}
	for i := range ops {
		p, err := d.result()
		// An entry that the token must not read is left out silently.
		if err == io.EOF || err == nil && string(p.name) != ops[i].KV.Key {
			return fmt.Errorf("%w: %q", backend.ErrPermission, ops[i].KV.Key)
		}
		if err != nil {
			return unreadable(err)
		}
		if p.modify == 0 {
			continue // absent: Consul echoes the question
		}
		value, err := p.value()
		if err != nil {
			return unreadable(err)
		}
		f := p.found(value)
		s.facts.learn(ops[i].KV.Key, f.modify, f.flags, f.session)
		each(i, f)
	}
	return nil
}
