package rediskv

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/polykv/kv/backend"
)

// op is one operation of lua/write.lua.
type op struct {
	key       string
	condition byte // - a p r l h
	of        string
	action    byte // - p d t
	value     []byte
	ttl       string // ms, "0" or "k"
	lease     string
}

// outcome is what the script tells of one operation.
type outcome struct {
	created backend.Revision
	expires time.Time
	existed bool
}

// result is what the script tells of all.
type result struct {
	revision backend.Revision
	outcomes []outcome
	failed   int // the operation whose condition did not hold, else -1
}

func condition(c backend.Condition, rev backend.Revision) (byte, string) {
	switch c {
	case backend.Absent:
		return 'a', ""
	case backend.Present:
		return 'p', ""
	case backend.AtRevision:
		return 'r', strconv.FormatUint(uint64(rev), 10)
	}
	return '-', ""
}

// milliseconds rounds up: a key is never gone before its TTL.
func milliseconds(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func ttlArgument(ttl time.Duration, keep bool) string {
	if keep {
		return "k"
	}
	return strconv.FormatInt(milliseconds(ttl), 10)
}

// write runs ops as one step.
func (s *Store) write(ctx context.Context, ops []op) (result, error) {
	if err := s.open(ctx); err != nil {
		return result{}, err
	}
	names, args := s.frame(2 * len(ops))
	var soonest time.Duration
	for i := range ops {
		o := &ops[i]
		if o.condition == 'h' {
			names = append(names, o.of, o.of)
		} else {
			names = append(names, s.names.value(o.key), s.names.record(o.key))
		}
		var sum string
		value := o.value
		if o.action == 'p' {
			sum = digest(value)
			value = bytes.Clone(value) // an abandoned request outlives the call
		}
		if value == nil {
			value = []byte{}
		}
		if o.ttl == "" {
			o.ttl = "0"
		}
		if ms, err := strconv.ParseInt(o.ttl, 10, 64); err == nil && ms > 0 {
			if d := time.Duration(ms) * time.Millisecond; soonest == 0 || d < soonest {
				soonest = d
			}
		}
		args = append(args, o.key, string(o.condition), o.of, string(o.action), value, sum, o.ttl, o.lease)
	}
	reply, err := s.runWrite(ctx, s.scripts.write, names, args...)
	if err != nil {
		return result{}, err
	}
	res := result{failed: -1}
	switch status(reply) {
	case "failed":
		res.failed = int(number(reply[1])) - 1
		return res, nil
	case "type":
		o := ops[number(reply[1])-1]
		return result{}, fmt.Errorf("%w: %q in Redis is not a string; it is left alone", backend.ErrInvalid, s.names.value(o.key))
	}
	if len(reply) != 2+3*len(ops) {
		return result{}, backend.Because(backend.ErrUncertain, fmt.Errorf("%w: answer to a write", backend.ErrCorrupt))
	}
	rev, _ := strconv.ParseUint(text(reply[1]), 10, 64)
	res.revision = backend.Revision(rev)
	res.outcomes = make([]outcome, len(ops))
	for i := range ops {
		created, _ := strconv.ParseUint(text(reply[2+3*i]), 10, 64)
		expires, _ := strconv.ParseInt(text(reply[3+3*i]), 10, 64)
		res.outcomes[i] = outcome{backend.Revision(created), expiry(expires), text(reply[4+3*i]) == "1"}
	}
	if soonest > 0 {
		s.reaper.expiresIn(soonest)
	}
	return res, nil
}

func (s *Store) checkSize(key string, value []byte) error {
	if len(value) > s.opt.MaxValueBytes {
		return fmt.Errorf("%w: a value of %d bytes, the limit is %d", backend.ErrTooLarge, len(value), s.opt.MaxValueBytes)
	}
	return s.checkKey(key)
}

func (s *Store) checkKey(key string) error {
	if len(key) > s.caps.MaxKeyBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", backend.ErrInvalidKey, len(key), s.caps.MaxKeyBytes)
	}
	return nil
}

// Put implements backend.Store. It is one round trip.
func (s *Store) Put(ctx context.Context, key string, value []byte, o backend.PutOptions) (backend.Entry, error) {
	if err := s.checkSize(key, value); err != nil {
		return backend.Entry{}, err
	}
	c, of := condition(o.If, o.Revision)
	res, err := s.write(ctx, []op{{key: key, condition: c, of: of, action: 'p', value: value, ttl: ttlArgument(o.TTL, o.KeepTTL)}})
	if err != nil {
		return backend.Entry{}, err
	}
	if res.failed >= 0 {
		return backend.Entry{}, o.If.Failed()
	}
	return res.entry(0, key), nil
}

func (r result) entry(i int, key string) backend.Entry {
	return backend.Entry{Key: key, Revision: r.revision, Created: r.outcomes[i].created, Expires: r.outcomes[i].expires}
}

// Delete implements backend.Store. It is one round trip.
func (s *Store) Delete(ctx context.Context, key string, o backend.DeleteOptions) error {
	if err := s.checkKey(key); err != nil {
		return err
	}
	cond := o.If
	if cond == backend.Always {
		cond = backend.Present
	}
	c, of := condition(cond, o.Revision)
	res, err := s.write(ctx, []op{{key: key, condition: c, of: of, action: 'd'}})
	if err == nil && res.failed >= 0 {
		err = cond.Failed()
	}
	return err
}

// deleteBatch is how many keys one script deletes: the server does nothing else meanwhile.
const deleteBatch = 500

// DeletePrefix implements backend.Store. It takes two round trips for every 500 keys, and each 500 go in one step.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int64, error) {
	var n int64
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	if err := s.overlook(ctx); err != nil {
		return 0, err
	}
	for from := newCursor(prefix, ""); ; {
		found, err := s.index(ctx, from, deleteBatch)
		if err != nil || len(found) == 0 {
			return n, err
		}
		ops := make([]op, len(found))
		for i, key := range found {
			ops[i] = op{key: key, condition: '-', action: 'd'}
		}
		res, err := s.write(ctx, ops)
		if err != nil {
			return n, err
		}
		for _, o := range res.outcomes {
			if o.existed {
				n++
			}
		}
		if len(found) < deleteBatch {
			return n, nil
		}
		from = from.after(found[len(found)-1])
	}
}
