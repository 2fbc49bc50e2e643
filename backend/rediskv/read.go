package rediskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// pair is what Redis holds for one key.
type pair struct {
	value  string
	record string
	there  bool // there is a value
}

func pairs(reply []any) []pair {
	ps := make([]pair, len(reply)/2)
	for i := range ps {
		ps[i].value, ps[i].there = reply[2*i].(string)
		ps[i].record = text(reply[2*i+1])
	}
	return ps
}

// entry makes an entry of p. ok is false if the record is not that of the value: then p has to be settled.
func (p pair) entry(key string) (e backend.Entry, ok bool, err error) {
	if p.record == "" || !p.there {
		return e, p.record == "" && !p.there, nil
	}
	r, err := parseRecord(p.record)
	if err != nil {
		return e, false, fmt.Errorf("record of %q: %w", key, err)
	}
	value := []byte(p.value)
	if !r.describes(value) {
		return e, false, nil
	}
	e = r.entry(key)
	e.Value = value
	return e, true, nil
}

// Get implements backend.Store. It is one round trip, and a second one for a key that another program has changed.
func (s *Store) Get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	entries, err := s.GetMany(ctx, []string{key}, o)
	if err != nil {
		return backend.Entry{}, err
	}
	if entries[0].Revision == 0 {
		return backend.Entry{}, backend.ErrNotFound
	}
	return entries[0], nil
}

// readBatch is how many keys one request reads.
const readBatch = 500

// GetMany implements backend.Store. Each 500 keys are one round trip and one moment.
func (s *Store) GetMany(ctx context.Context, keys []string, o backend.GetOptions) ([]backend.Entry, error) {
	for _, k := range keys {
		if err := s.checkKey(k); err != nil {
			return nil, err
		}
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	if err := s.reach(ctx, o.AtLeast); err != nil {
		return nil, err
	}
	entries := make([]backend.Entry, 0, len(keys))
	for len(keys) > 0 {
		batch := keys[:min(len(keys), readBatch)]
		ps, err := s.fetch(ctx, batch)
		if err != nil {
			return nil, err
		}
		batch = batch[:len(ps)]
		if entries, err = s.entries(ctx, entries, batch, ps); err != nil {
			return nil, err
		}
		keys = keys[len(batch):]
	}
	return entries, nil
}

// fetch reads keys, or the first of them if all are too much for one reply.
func (s *Store) fetch(ctx context.Context, keys []string) ([]pair, error) {
	if s.cluster != nil {
		// go-redis splits MGET by slots and makes new requests of it, which forget that they must not be repeated.
		pg, err := s.page(ctx, keys, false)
		return pg.pairs, err
	}
	w := &wire{text: s.names.value(keys[0])}
	args := make([]any, 1, 1+2*len(keys))
	args[0] = "mget"
	for _, k := range keys {
		args = append(args, s.names.value(k), s.names.record(k))
	}
	args[1] = w
	reply, err := s.read(ctx, w, args)
	if err != nil {
		return nil, err
	}
	list, _ := reply.([]any)
	if len(list) != 2*len(keys) {
		return nil, fmt.Errorf("%w: answer to MGET", backend.ErrCorrupt)
	}
	return pairs(list), nil
}

// entries appends an entry for each key to dst, after it has settled those that another program has changed.
func (s *Store) entries(ctx context.Context, dst []backend.Entry, keys []string, ps []pair) ([]backend.Entry, error) {
	first := len(dst)
	var stray []string
	var places []int
	for i, p := range ps {
		e, ok, err := p.entry(keys[i])
		if err != nil {
			return nil, err
		}
		if !ok {
			stray = append(stray, keys[i])
			places = append(places, first+i)
		}
		dst = append(dst, e)
	}
	if len(stray) == 0 {
		return dst, nil
	}
	settled, _, err := s.settle(ctx, stray, true)
	if errors.Is(err, backend.ErrPermission) {
		for _, p := range places {
			if ps[p-first].there {
				return nil, err // there is a value, and no revision for it
			}
		}
		return dst, nil
	}
	if err != nil {
		return nil, err
	}
	for i, p := range settled {
		e, _, err := p.entry(stray[i])
		if err != nil {
			return nil, err
		}
		dst[places[i]] = e
	}
	return dst, nil
}

// reach waits until the store has reached rev. It is there at once unless rev is of another store, or of a server that
// has since lost its last writes.
func (s *Store) reach(ctx context.Context, rev backend.Revision) error {
	if rev == 0 {
		return nil
	}
	wait := backoff.Backoff{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}
	for {
		pg, err := s.page(ctx, nil, true)
		if err != nil || backend.Revision(pg.log.rev) >= rev {
			return err
		}
		if !wait.Wait(ctx) {
			return backend.ContextError(ctx)
		}
	}
}

// page is what lua/page.lua answers.
type page struct {
	epoch string
	log   id // the end of the log at that moment
	pairs []pair
}

func (s *Store) page(ctx context.Context, keys []string, bare bool) (page, error) {
	names := make([]string, 1, 1+2*len(keys))
	names[0] = s.names.head
	for _, k := range keys {
		names = append(names, s.names.value(k), s.names.record(k))
	}
	noValues := "0"
	if bare {
		noValues = "1"
	}
	for {
		reply, err := s.runRead(ctx, s.scripts.page, names, schema, s.opt.WatchBuffer, noValues)
		if err != nil {
			return page{}, err
		}
		if status(reply) == "none" {
			if err := s.reopen(ctx); err != nil {
				return page{}, err
			}
			continue
		}
		if len(reply) < 3 {
			return page{}, fmt.Errorf("%w: a page", backend.ErrCorrupt)
		}
		at, ok := parseID(text(reply[2]))
		ps := make([]pair, 0, len(keys))
		for _, part := range reply[3:] {
			list, _ := part.([]any)
			ps = append(ps, pairs(list)...)
		}
		if !ok || len(ps) > len(keys) {
			return page{}, fmt.Errorf("%w: the head", backend.ErrCorrupt)
		}
		return page{epoch: text(reply[1]), log: at, pairs: ps}, nil
	}
}
