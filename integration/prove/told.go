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
	t := &told{states: []state{{}}}
	var last backend.Revision
	for _, ev := range events {
		i, ok := slotOf[ev.Key]
		if !ok {
			continue
		}
		now := t.states[len(t.states)-1]
		w := Write{Slot: i, Value: string(ev.Value)}
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

func (t *told) step(i int, in Input, out Output) (bool, int) {
	end := len(t.states) - 1
	if in.Op == opEnd {
		return i == end, i
	}
	now := t.states[i]
	if out.Status == open && i == end {
		return true, i // it may yet come, or never
	}
	ok, next := step(now, in, out)
	switch {
	case !ok:
		return false, i
	case next.cells == now.cells:
		return true, i
	case i < end && next.cells == t.states[i+1].cells:
		return true, i + 1
	}
	return false, i
}

func (t *told) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(s, in, out any) (bool, any) {
			ok, next := t.step(s.(int), in.(Input), out.(Output))
			return ok, next
		},
		DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
		DescribeState: func(s any) string {
			return fmt.Sprintf("event %d: %s", s.(int), describeState(t.states[s.(int)]))
		},
	}
}
