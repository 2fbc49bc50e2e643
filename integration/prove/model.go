package prove

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// state is a family of keys as the model has it. It is comparable, as porcupine wants.
type state struct {
	cells [slots]Cell
	floor kv.Revision // no write has had a higher revision
	ghost [slots]bool // the cell is the work of an open operation that nobody has seen
	used  [slots]int8 // open deletes that have happened: see ranked
	ended bool        // everything that returned has happened
	exact bool        // open operations may happen anywhere: see step
}

func (s state) holds(c Check) bool {
	cell := s.cells[c.Slot]
	switch c.If {
	case backend.Absent:
		return cell.Revision == 0
	case backend.Present:
		return cell.Revision != 0
	case backend.AtRevision:
		return cell.Revision == c.Revision
	}
	return true
}

func (s state) hold(checks []Check) bool {
	for _, c := range checks {
		if !s.holds(c) {
			return false
		}
	}
	return true
}

// reason is how the failure of a condition is told.
func reason(c backend.Condition) string {
	switch c {
	case backend.Absent:
		return "exists"
	case backend.Present:
		return "not found"
	}
	return "conflict"
}

// step reports whether an operation may have answered out in state s, and the state that it leaves.
//
// An open operation may have happened at any time after its call, or never. Tried at every place, a few of them make a
// search of centuries, so it is allowed only where it tells: if the next operation on the key does not depend on it, then
// it can as well have happened at the very end, where nothing looks any more.
func step(s state, in Input, out Output) (bool, state) {
	switch {
	case in.Op == opEnd:
		s.ended = true
		return true, s
	case out.Status == failed:
		for _, c := range in.Checks {
			if c.Slot == out.Slot && reason(c.If) == out.Reason {
				return !s.holds(c), s
			}
		}
		return false, s // it names a condition that was not made
	case out.Status == open:
		return s.maybe(in)
	case !s.hold(in.Checks):
		return false, s
	}
	for i, slot := range in.Reads {
		if !s.cells[slot].answers(out.Cells[i]) {
			return false, s
		}
	}
	if s.hidesGhost(in, out) {
		return false, s
	}
	if !in.puts() {
		return true, s.apply(in.Writes, 0)
	}
	if out.Revision <= s.floor {
		return false, s // a revision that is not higher than all before
	}
	if out.Created != 0 && len(in.Writes) == 1 {
		if was := s.cells[in.Writes[0].Slot]; was.Revision == 0 && out.Created != out.Revision ||
			was.Revision != 0 && was.Created != unknown && out.Created != was.Created {
			return false, s // a recreation was told as an update, or the other way round
		}
	}
	s.floor = out.Revision
	return true, s.apply(in.Writes, out.Revision)
}

// maybe is the step of an operation that is still open.
func (s state) maybe(in Input) (bool, state) {
	if s.ended {
		return true, s
	}
	if !s.hold(in.Checks) || s.hidesGhost(in, Output{}) || in.rank > 0 && int(s.used[in.slot()]) != in.rank-1 {
		return false, s
	}
	next := s.apply(in.Writes, unknown)
	if in.rank > 0 {
		next.used[in.slot()]++
	}
	if len(in.Writes) == 1 && !s.exact { // of several, another one may tell
		next.ghost[in.Writes[0].Slot] = true
	}
	return next.cells != s.cells, next
}

// hidesGhost reports whether an operation overwrites what nobody has seen, without a condition or an answer that depends
// on it.
func (s state) hidesGhost(in Input, out Output) bool {
	if s.exact {
		return false
	}
	for _, w := range in.Writes {
		if !s.ghost[w.Slot] {
			continue
		}
		seen := false
		for _, c := range in.Checks {
			seen = seen || c.Slot == w.Slot
		}
		// The creating revision tells whether there was a key.
		if len(in.Writes) == 1 && out.Created != 0 {
			absent := s.cells[w.Slot].Revision == 0
			seen = seen || absent == (out.Created == out.Revision)
		}
		if !seen {
			return true
		}
	}
	return false
}

// answers reports whether a read of c may give got.
func (c Cell) answers(got Cell) bool {
	if c.Value != got.Value || c.Revision != got.Revision {
		return false
	}
	return got.Created == 0 || c.Created == unknown || c.Created == got.Created
}

func (s state) apply(writes []Write, rev kv.Revision) state {
	for _, w := range writes {
		s.ghost[w.Slot] = false
		cell := &s.cells[w.Slot]
		if w.Delete {
			*cell = Cell{}
			continue
		}
		if cell.Revision == 0 {
			cell.Created = rev
		}
		cell.Value, cell.Revision = w.Value, rev
	}
	return s
}

// storeModel is the model of a family, or of one key of it.
func storeModel(exact bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{exact: exact} },
		Step: func(s, in, out any) (bool, any) {
			ok, next := step(s.(state), in.(Input), out.(Output))
			return ok, next
		},
		DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
		DescribeState:     func(s any) string { return describeState(s.(state)) },
	}
}

// slot is the one key that in touches.
func (in Input) slot() int {
	switch {
	case len(in.Checks) > 0:
		return in.Checks[0].Slot
	case len(in.Writes) > 0:
		return in.Writes[0].Slot
	}
	return in.Reads[0]
}

func describeState(s state) string {
	text := ""
	for slot, c := range s.cells {
		if c.Revision != 0 {
			text += fmt.Sprintf("%d=%v ", slot, c)
		}
	}
	return text
}
