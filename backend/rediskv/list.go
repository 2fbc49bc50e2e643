package rediskv

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// listBatch is how many names a list reads at a time, where it does not need a script to read what belongs to them.
const listBatch = 2000

// List implements backend.Store. Each 2,000 keys take three round trips: their names, their records, and their values,
// these in parts of up to WatchBuffer bytes. Up to 100, or on Redis Cluster each 500, take two.
func (s *Store) List(ctx context.Context, prefix string, o backend.ListOptions) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		err := s.open(ctx)
		if err == nil {
			err = s.overlook(ctx)
		}
		if err == nil {
			err = s.reach(ctx, o.AtLeast)
		}
		if err != nil {
			yield(backend.Entry{}, err)
			return
		}
		left := o.Limit
		after := o.After
		if child, deeper, _ := keys.Child(prefix, after); o.Children && deeper {
			after = child + "/" // a directory precedes what is in it
		}
		for from := newCursor(prefix, after); ; {
			want := listBatch
			if s.cluster != nil || o.KeysOnly {
				want = readBatch
			}
			if o.Limit > 0 && !o.Children {
				want = min(want, left)
			}
			found, err := s.index(ctx, from, want)
			if err != nil {
				yield(backend.Entry{}, err)
				return
			}
			if len(found) == 0 {
				return
			}
			last := len(found) < want
			from = from.after(found[len(found)-1])
			if o.Children {
				found, from = children(prefix, found, from)
			}
			var records []string
			for len(found) > 0 {
				entries, used, err := s.listed(ctx, found, &records, o.KeysOnly)
				if err != nil {
					yield(backend.Entry{}, err)
					return
				}
				for _, e := range entries {
					if ctx.Err() != nil {
						yield(backend.Entry{}, backend.ContextError(ctx))
						return
					}
					if !yield(e, nil) {
						return
					}
					if left--; left == 0 {
						return
					}
				}
				found = found[used:]
			}
			if last {
				return
			}
		}
	}
}

// cursor is a range of the index in the words of ZRANGE BYLEX.
type cursor struct{ from, to string }

// newCursor covers what lies strictly below prefix and comes after a key, or after everything below a directory.
func newCursor(prefix, after string) cursor {
	c := cursor{"-", "+"}
	if prefix != "" {
		c = cursor{"(" + prefix + "/", "(" + prefix + "0"} // 0 follows the slash
	}
	if after > prefix+"/" || prefix == "" && after != "" {
		if dir, ok := strings.CutSuffix(after, "/"); ok {
			return c.past(dir)
		}
		return c.after(after)
	}
	return c
}

func (c cursor) after(key string) cursor { return cursor{"(" + key, c.to} }
func (c cursor) past(dir string) cursor  { return cursor{"[" + dir + "0", c.to} }

// index returns up to limit keys, in order. They may have expired, and keys that another program has written and nobody
// has read are missing.
func (s *Store) index(ctx context.Context, c cursor, limit int) ([]string, error) {
	w := &wire{text: c.from}
	reply, err := s.read(ctx, w, []any{"zrange", s.names.index, w, c.to, "bylex", "limit", 0, limit})
	if err != nil {
		return nil, err
	}
	list, _ := reply.([]any)
	found := make([]string, 0, len(list))
	for _, k := range list {
		key := text(k)
		if !keys.IsCanonical(key) {
			return nil, fmt.Errorf("%w: %q in the index of keys", backend.ErrCorrupt, key)
		}
		found = append(found, key)
	}
	return found, nil
}

// children replaces the keys below each child directory of prefix by the directory, and moves the cursor past the last
// one.
func children(prefix string, found []string, from cursor) ([]string, cursor) {
	kept := found[:0]
	dir := ""
	for _, key := range found {
		child, deeper, _ := keys.Child(prefix, key)
		if !deeper {
			kept = append(kept, key)
			continue
		}
		if child+"/" != dir {
			dir = child + "/"
			kept = append(kept, dir)
		}
		from = from.past(child)
	}
	if n := len(found); n > 0 && len(kept) > 0 && kept[len(kept)-1] != dir {
		from = from.after(kept[len(kept)-1])
	}
	return kept, from
}

// listed returns what there is of found, keys and directories, or of as many of them as fit. It keeps the records that it
// reads ahead in records.
func (s *Store) listed(ctx context.Context, found []string, records *[]string, keysOnly bool) (entries []backend.Entry, used int, err error) {
	plain := found
	for i, name := range found {
		if strings.HasSuffix(name, "/") {
			plain = found[:i]
			break
		}
	}
	if len(plain) == 0 {
		there, err := s.inhabited(ctx, strings.TrimSuffix(found[0], "/"))
		if err != nil || !there {
			return nil, 1, err
		}
		return []backend.Entry{{Key: found[0]}}, 1, nil
	}
	var ps []pair
	if keysOnly || s.cluster != nil || len(plain) <= 100 && len(*records) == 0 {
		pg, err := s.page(ctx, plain, keysOnly)
		if err != nil {
			return nil, 0, err
		}
		ps = pg.pairs
	} else if ps, err = s.readAhead(ctx, plain, records); err != nil {
		return nil, 0, err
	}
	plain = plain[:len(ps)]
	if keysOnly {
		entries, err = s.keyEntries(plain, ps)
	} else {
		entries, err = s.entries(ctx, make([]backend.Entry, 0, len(plain)), plain, ps)
	}
	there := entries[:0]
	for _, e := range entries {
		if e.Revision != 0 {
			there = append(there, e)
		}
	}
	return there, len(plain), err
}

// readAhead reads the records of all keys, unless records has them, and as many values as fit: the records tell how large
// they are. What changes in between looks like another program's doing, and is settled as such.
func (s *Store) readAhead(ctx context.Context, found []string, records *[]string) ([]pair, error) {
	if len(*records) == 0 {
		reply, err := s.mget(ctx, found, s.names.record)
		if err != nil {
			return nil, err
		}
		*records = make([]string, len(found))
		for i := range found {
			(*records)[i] = text(reply[i])
		}
	}
	n, size := 0, 0
	for n < len(found) && (n == 0 || size < s.opt.WatchBuffer) {
		r, err := parseRecord((*records)[n])
		if err == nil {
			size += r.length
		}
		if n++; size > s.opt.WatchBuffer && n > 1 {
			n--
			break
		}
	}
	reply, err := s.mget(ctx, found[:n], s.names.value)
	if err != nil {
		return nil, err
	}
	ps := make([]pair, n)
	for i := range ps {
		ps[i].value, ps[i].there = reply[i].(string)
		ps[i].record = (*records)[i]
	}
	*records = (*records)[n:]
	return ps, nil
}

func (s *Store) mget(ctx context.Context, keys []string, name func(string) string) ([]any, error) {
	w := &wire{text: name(keys[0])}
	args := make([]any, 2, 1+len(keys))
	args[0], args[1] = "mget", w
	natives := make([]string, len(keys)) // go-redis takes pointers, and those need no allocation each
	for i, k := range keys[1:] {
		natives[i] = name(k)
		args = append(args, &natives[i])
	}
	reply, err := s.read(ctx, w, args)
	if err != nil {
		return nil, err
	}
	list, _ := reply.([]any)
	if len(list) != len(keys) {
		return nil, fmt.Errorf("%w: answer to MGET", backend.ErrCorrupt)
	}
	return list, nil
}

// keyEntries makes entries without values. Whether another program has changed a value is not seen without reading it.
func (s *Store) keyEntries(found []string, ps []pair) ([]backend.Entry, error) {
	entries := make([]backend.Entry, 0, len(found))
	for i, p := range ps {
		if !p.there || p.record == "" {
			continue
		}
		r, err := parseRecord(p.record)
		if err != nil {
			return nil, fmt.Errorf("record of %q: %w", found[i], err)
		}
		entries = append(entries, r.entry(found[i]))
	}
	return entries, nil
}

// inhabited reports whether there is a key below prefix that has not expired.
func (s *Store) inhabited(ctx context.Context, prefix string) (bool, error) {
	for from, n := newCursor(prefix, ""), 1; ; n = readBatch {
		found, err := s.index(ctx, from, n)
		if err != nil || len(found) == 0 {
			return false, err
		}
		pg, err := s.page(ctx, found, true)
		if err != nil {
			return false, err
		}
		for _, p := range pg.pairs {
			if p.there {
				return true, nil
			}
		}
		from = from.after(found[len(pg.pairs)-1])
	}
}
