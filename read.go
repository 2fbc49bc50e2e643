package kv

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/contexts"
	"github.com/polykv/kv/internal/keys"
)

func getOptions(opts []GetOption) backend.GetOptions {
	var o backend.GetOptions
	for _, opt := range opts {
		if opt != nil {
			o = opt.get(o)
		}
	}
	return o
}

// get reads one key, for Stores and Typeds.
func (s *Store) get(ctx context.Context, key string, o backend.GetOptions) (backend.Entry, error) {
	contexts.Require(ctx)
	full, err := s.full(OpGet, key)
	if err != nil {
		return backend.Entry{}, err
	}
	c := s.core
	var e backend.Entry
	if c.intercept != nil {
		e, err = intercepted(c, ctx, OpGet, full, func(ctx context.Context) (backend.Entry, error) {
			return c.read(ctx, full, o)
		})
	} else {
		e, err = c.read(ctx, full, o)
	}
	if err != nil {
		return backend.Entry{}, c.fail(OpGet, full, err)
	}
	return e, nil
}

func (c *core) read(ctx context.Context, full string, o backend.GetOptions) (backend.Entry, error) {
	start := time.Now()
	e, err := c.b.Get(ctx, full, o)
	if err == nil || errors.Is(err, ErrNotFound) {
		return e, err
	}
	return retryRead(ctx, start, e, err, func() (backend.Entry, error) { return c.b.Get(ctx, full, o) })
}

func (s *Store) getMany(ctx context.Context, ks []string, o backend.GetOptions) ([]backend.Entry, error) {
	contexts.Require(ctx)
	full := make([]string, len(ks))
	for i, key := range ks {
		var err error
		if full[i], err = s.full(OpGetMany, key); err != nil {
			return nil, err
		}
	}
	if len(full) == 0 {
		return nil, s.ready(ctx, OpGetMany)
	}
	c := s.core
	var out []backend.Entry
	err := c.do(ctx, OpGetMany, full[0], func(ctx context.Context) (err error) {
		start := time.Now()
		out, err = c.b.GetMany(ctx, full, o)
		if err != nil {
			out, err = retryRead(ctx, start, out, err, func() ([]backend.Entry, error) {
				return c.b.GetMany(ctx, full, o)
			})
		}
		return err
	})
	return out, err
}

// lookups converts what GetMany of the driver gave.
func (r reader[T]) lookups(ks []string, es []backend.Entry) []Lookup[T] {
	out := make([]Lookup[T], len(es))
	for i, e := range es {
		if e.Revision == 0 {
			out[i].Key, _ = keys.Canonical(ks[i])
			continue
		}
		entry, err := r.got(OpGetMany, e)
		out[i] = Lookup[T]{Entry: entry, Found: true, Err: err}
	}
	return out
}

func (s *Store) exists(ctx context.Context, key string, o backend.GetOptions) (bool, error) {
	_, err := s.get(ctx, key, o)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// list is List of a reader's view.
func (r reader[T]) list(ctx context.Context, prefix string, opts []ListOption) iter.Seq2[Entry[T], error] {
	contexts.Require(ctx)
	s := r.s
	return func(yield func(Entry[T], error) bool) {
		full, o, err := s.listArgs(prefix, opts)
		if err != nil {
			yield(Entry[T]{}, err)
			return
		}
		c := s.core
		begun, stopped := false, false
		var late error // of a repetition that had begun
		raw, isRaw := any(yield).(func(Entry[[]byte], error) bool)
		once := func(ctx context.Context) (err error) {
			if isRaw && r.c == nil {
				begun, stopped, err = s.yieldRaw(c.b.List(ctx, full, o), raw)
				return err
			}
			for e, err := range c.b.List(ctx, full, o) {
				if err != nil {
					return err
				}
				begun = true
				entry, err := r.entry(e, !o.KeysOnly && !e.IsDir())
				if !yield(entry, c.fail(OpList, e.Key, err)) {
					stopped = true
					return nil
				}
			}
			return nil
		}
		run := func(ctx context.Context) error {
			start := time.Now()
			err := once(ctx)
			if err == nil || begun { // what was yielded cannot be taken back
				return err
			}
			_, err = retryRead(ctx, start, struct{}{}, err, func() (struct{}, error) {
				err := once(ctx)
				if begun {
					late, err = err, nil
				}
				return struct{}{}, err
			})
			if err == nil {
				err = late
			}
			return err
		}
		if err := c.do(ctx, OpList, full, run); err != nil && !stopped {
			yield(Entry[T]{}, err)
		}
	}
}

// yieldRaw yields what a Store lists: the driver's entries, which are laid out
// as its own, so that to convert them costs next to nothing.
func (s *Store) yieldRaw(
	entries iter.Seq2[backend.Entry, error], yield func(Entry[[]byte], error) bool,
) (begun, stopped bool, err error) {
	for e, err := range entries {
		if err != nil {
			return begun, false, err
		}
		begun = true
		e.Key = s.relative(e.Key)
		if !yield(Entry[[]byte](e), nil) {
			return true, true, nil
		}
	}
	return begun, false, nil
}

func (s *Store) listArgs(prefix string, opts []ListOption) (string, backend.ListOptions, error) {
	var o backend.ListOptions
	limited := false
	for _, opt := range opts {
		if opt != nil {
			o = opt.list(o)
			if _, ok := opt.(limit); ok {
				limited = true
			}
		}
	}
	full, err := s.fullPrefix(OpList, prefix)
	if err != nil {
		return "", o, err
	}
	if limited && o.Limit < 1 {
		return "", o, s.core.fail(OpList, full, backend.Because(ErrInvalid, errors.New("a limit under 1")))
	}
	if o.After != "" {
		dir := o.Children && o.After[len(o.After)-1] == '/'
		if o.After, err = s.full(OpList, o.After); err != nil {
			return "", o, err
		}
		if dir {
			o.After += "/"
		}
	}
	return full, o, nil
}

// Collect gathers a sequence of entries or events into a slice. It stops at
// the first error and returns what came before it.
func Collect[E any](seq iter.Seq2[E, error]) ([]E, error) {
	var out []E
	for e, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
	return out, nil
}
