package prove

import (
	"context"
	"errors"
	"fmt"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// A caller carries out operations: on a store in this process, or in another one.
type caller interface {
	call(ctx context.Context, in Input) Output
}

// storeCaller is a client: a store on connections of its own.
type storeCaller struct{ s *kv.Store }

func (c storeCaller) call(ctx context.Context, in Input) Output {
	out, err := c.do(ctx, in)
	if err != nil {
		return outcome(in, err)
	}
	return out
}

func (c storeCaller) do(ctx context.Context, in Input) (Output, error) {
	switch in.Op {
	case opGet:
		var opts []kv.GetOption
		if in.Stale {
			opts = append(opts, kv.Stale())
		}
		e, err := c.s.Get(ctx, in.key(in.Reads[0]), opts...)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return Output{}, err
		}
		return Output{Cells: []Cell{cellOf(e)}}, nil
	case opGetMany:
		return c.getMany(ctx, in)
	case opList:
		return c.list(ctx, in)
	case opDelete:
		return Output{}, c.s.Delete(ctx, in.key(in.Writes[0].Slot))
	case opDeleteAt:
		return Output{}, c.s.Delete(ctx, in.key(in.Writes[0].Slot), kv.IfRevision(in.Checks[0].Revision))
	case opTxn:
		return c.commit(ctx, in)
	}
	w := in.Writes[0]
	var e kv.Entry[[]byte]
	var err error
	switch in.Op {
	case opPut:
		e, err = c.s.Put(ctx, in.key(w.Slot), []byte(w.Value))
	case opCreate:
		e, err = c.s.Create(ctx, in.key(w.Slot), []byte(w.Value))
	case opUpdate:
		e, err = c.s.Update(ctx, in.key(w.Slot), []byte(w.Value), in.Checks[0].Revision)
	default:
		err = fmt.Errorf("unknown operation %q", in.Op)
	}
	return Output{Revision: e.Revision, Created: e.Created}, err
}

// cellOf keeps what the model knows of an entry.
func cellOf(e kv.Entry[[]byte]) Cell {
	return Cell{Value: string(e.Value), Revision: e.Revision, Created: e.Created}
}

func (c storeCaller) getMany(ctx context.Context, in Input) (Output, error) {
	keys := make([]string, len(in.Reads))
	for i, slot := range in.Reads {
		keys[i] = in.key(slot)
	}
	got, err := c.s.GetMany(ctx, keys)
	if err != nil {
		return Output{}, err
	}
	cells := make([]Cell, len(got))
	for i, l := range got {
		if l.Err != nil {
			return Output{}, l.Err
		}
		if l.Found {
			cells[i] = cellOf(l.Entry)
		}
	}
	return Output{Cells: cells}, nil
}

func (c storeCaller) list(ctx context.Context, in Input) (Output, error) {
	cells := make([]Cell, len(in.Reads))
	for e, err := range c.s.List(ctx, in.Dir+"/"+in.Family) {
		if err != nil {
			return Output{}, err
		}
		known := false
		for i, slot := range in.Reads {
			if in.key(slot) == e.Key {
				cells[i], known = cellOf(e), true
			}
		}
		if !known {
			return Output{}, fmt.Errorf("a list of %s/%s has the key %q", in.Dir, in.Family, e.Key)
		}
	}
	return Output{Cells: cells}, nil
}

func (c storeCaller) commit(ctx context.Context, in Input) (Output, error) {
	t := c.s.Txn()
	for _, check := range in.Checks {
		switch key := in.key(check.Slot); check.If {
		case backend.Absent:
			t.IfAbsent(key)
		case backend.Present:
			t.IfPresent(key)
		case backend.AtRevision:
			t.IfRevision(key, check.Revision)
		}
	}
	for _, w := range in.Writes {
		if w.Delete {
			t.Delete(in.key(w.Slot))
		} else {
			t.Put(in.key(w.Slot), []byte(w.Value))
		}
	}
	r, err := t.Commit(ctx)
	return Output{Revision: r.Revision}, err
}

// outcome sorts an error into what it says of the operation. Whatever does not match ErrUncertain says that nothing was
// applied, a context's error by itself included (R36).
func outcome(in Input, err error) Output {
	var check *kv.CheckError
	text := err.Error()
	switch {
	case errors.Is(err, kv.ErrUncertain):
		return Output{Status: open, Reason: text}
	case errors.Is(err, kv.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Output{Status: never, Reason: text}
	case errors.As(err, &check):
		for _, c := range in.Checks {
			if in.key(c.Slot) == check.Key {
				return Output{Status: failed, Slot: c.Slot, Reason: sentinel(err)}
			}
		}
	case sentinel(err) != "" && len(in.Checks) == 1:
		return Output{Status: failed, Slot: in.Checks[0].Slot, Reason: sentinel(err)}
	}
	return Output{Status: broken, Reason: text}
}

// sentinel is the reason of a failed condition, or "".
func sentinel(err error) string {
	switch {
	case errors.Is(err, kv.ErrExists):
		return "exists"
	case errors.Is(err, kv.ErrNotFound):
		return "not found"
	case errors.Is(err, kv.ErrConflict):
		return "conflict"
	}
	return ""
}
