package prove

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv/backend"
)

// told is a model that can go one way only: through the states that a lossless watch told. A history that is
// linearizable by it proves the watch as well: every write has its event, in the order in which the store made them, and
// no event is left over.
type told struct {
	states []state // before the first event, and after each
	values map[string]bool
}

// newTold makes the model of one family, and of one slot of it unless slot is negative. Events of one revision belong to
// one transaction.
func newTold(in Input, slot int, events []backend.Event) (*told, error) {
	slotOf := map[string]int{}
	for i := range slots {
		if slot < 0 || i == slot {
			slotOf[in.key(i)] = i
		}
	}
	t := &told{states: []state{{}}, values: map[string]bool{}}
	var last backend.Revision
	for _, ev := range events {
		i, ok := slotOf[ev.Key]
		if !ok {
			continue
		}
		now := t.states[len(t.states)-1]
		w := Write{Slot: i, Value: string(ev.Value)}
		t.values[w.Value] = true
		switch ev.Kind {
		case backend.Created, backend.Updated:
		case backend.Deleted:
			w.Delete = true
		case backend.Existing:
			return nil, fmt.Errorf("%q was there before the round", ev.Key)
		default:
			continue
		}
		now = now.apply([]Write{w}, ev.Revision)
		if ev.Revision == last {
			t.states[len(t.states)-1] = now
		} else {
			t.states = append(t.states, now)
		}
		last = ev.Revision
	}
	return t, nil
}

// concerns reports whether an operation may have made an event. One that is open and has not can come after the last one, or
// never.
func (t *told) concerns(op porcupine.Operation) bool {
	if op.Output.(Output).Status != open {
		return true
	}
	for _, w := range op.Input.(Input).Writes {
		if !w.Delete && !t.values[w.Value] {
			return false
		}
	}
	return true
}

// place is how far a history has come.
type place struct {
	i    int         // events
	used [slots]int8 // as in state
}

func (t *told) step(p place, in Input, out Output) (bool, place) {
	end := len(t.states) - 1
	if in.Op == opEnd {
		return p.i == end, p
	}
	now := t.states[p.i]
	now.used, now.puts = p.used, in.order-1 // what was told has an order
	if out.Status == open && p.i == end {
		return true, p // it may yet come, or never
	}
	ok, next := step(now, in, out)
	switch {
	case !ok:
		return false, p
	case next.cells == now.cells:
		return true, p
	case p.i < end && next.cells == t.states[p.i+1].cells:
		return true, place{p.i + 1, next.used}
	}
	return false, p
}

func (t *told) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return place{} },
		Step: func(s, in, out any) (bool, any) {
			ok, next := t.step(s.(place), in.(Input), out.(Output))
			return ok, next
		},
		DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
		DescribeState: func(s any) string {
			i := s.(place).i
			return fmt.Sprintf("event %d: %s", i, describeState(t.states[i]))
		},
	}
}
