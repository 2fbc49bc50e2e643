package prove

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// state is a family of keys as the model has it. It is comparable, as porcupine wants.
type state struct {
	cells  [slots]Cell
	puts   int          // acknowledged operations that put something: see Input.order
	used   [slots]int8  // open deletes that have happened: see ranked
	ghost  [slots]int16 // the cell is the work of the open operation of that number, which nothing has needed yet; 0: it is not
	under  [slots]Cell  // what a ghost has replaced
	early  [3]early
	latest kv.Revision // of the last acknowledged put
	ended  bool        // everything that returned has happened
	exact  bool        // open operations may happen anywhere: see step
	most   int8        // how many open operations may happen between two others; 0: any number
	run    int8        // how many have
}

// early is a ghost that could as well come after what has followed it so far, and the slots, as bits, that it writes and
// looks at.
type early struct {
	ghost         int16
	writes, looks uint8
}

func (in Input) written() (slots uint8) {
	for _, w := range in.Writes {
		slots |= 1 << w.Slot
	}
	return slots
}

func (in Input) looked() (slots uint8) {
	for _, c := range in.Checks {
		slots |= 1 << c.Slot
	}
	return slots
}

func (s *state) holds(c Check) bool {
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

func (s *state) hold(checks []Check) bool {
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
// search of centuries, so it is allowed only where something needs it: an operation whose answer would be another one
// without it, before all that it wrote is overwritten. If nothing does, the same history is explained without it.
func step(s state, in Input, out Output) (bool, state) {
	switch {
	case in.Op == opEnd:
		s.ended = true
		return s.ghost == [slots]int16{}, s
	case out.Status == open && s.ended:
		return true, s
	case out.Status == open && !s.admits(&in), !s.allows(in, out):
		return false, s
	}
	if s.run++; out.Status != open {
		s.run = 0
	}
	next, ok := s.haunted(in, out).waited(s, in, out)
	if !ok {
		return false, s
	}
	for i, w := range in.Writes {
		if g := next.ghost[w.Slot]; g != 0 && out.Status != failed {
			if next.ghost[w.Slot] = 0; next.inherits(w, out.since(i)) {
				next = next.exorcised(g)
			} else if !next.haunts(g) {
				return false, s
			}
		}
	}
	if out.Status == failed {
		return true, next
	}
	rev := out.Revision
	if out.Status == open {
		rev = unknown
	} else if in.puts() {
		next.puts, next.latest = in.order, out.Revision
	}
	cells := next.cells
	next = next.apply(in.Writes, rev)
	if out.Status != open {
		return true, next
	}
	if in.rank > 0 {
		next.used[in.slot()]++
	}
	if !s.exact {
		for _, w := range in.Writes {
			next.ghost[w.Slot], next.under[w.Slot] = in.number, cells[w.Slot]
		}
		if i := slices.Index(next.early[:], early{}); i >= 0 {
			next.early[i] = early{in.number, in.written(), in.looked()}
		}
	}
	return next.cells != s.cells, next
}

// admits reports whether an open operation may happen in state s. It is most of what a search asks, so it copies nothing.
func (s *state) admits(in *Input) bool {
	return (s.most == 0 || s.run < s.most) && (in.rank == 0 || int(s.used[in.slot()]) == in.rank-1) && s.hold(in.Checks)
}

// allows reports whether an operation may answer out in state s, whatever comes of it.
func (s state) allows(in Input, out Output) bool {
	switch {
	case out.Status == failed:
		for _, c := range in.Checks {
			if c.Slot == out.Slot && reason(c.If) == out.Reason {
				return !s.holds(c)
			}
		}
		return false // it names a condition that was not made
	case !s.hold(in.Checks):
		return false
	case out.Status == open:
		return true
	}
	for i, slot := range in.Reads {
		if !s.cells[slot].answers(out.Cells[i]) {
			return false
		}
	}
	if !in.puts() {
		return true
	}
	if in.order != s.puts+1 || out.Revision <= s.latest {
		return false // revisions tell the order of all puts
	}
	for i, w := range in.Writes {
		since := out.since(i)
		if w.Delete || since == 0 {
			continue
		}
		if was := s.cells[w.Slot]; was.Revision == 0 && since != out.Revision ||
			was.Revision != 0 && was.Created != unknown && since != was.Created {
			return false // a recreation was told as an update, or the other way round
		}
	}
	return true
}

// haunted is s after an operation has looked at it: a ghost without which it would have answered something else is none any
// more.
func (s state) haunted(in Input, out Output) state {
	for slot, g := range s.ghost {
		if g == 0 || slices.Contains(s.ghost[:slot], g) {
			continue
		}
		without := s
		for i, other := range s.ghost {
			if other == g {
				without.cells[i] = s.under[i]
			}
		}
		if !without.allows(in, out) {
			s = s.exorcised(g)
		}
	}
	return s
}

// waited is s, which the operation has looked at, after it has been found out which ghosts could have come after it: a ghost
// comes as late as it can, so whatever follows needs it or writes what it writes or looks at. before is s before the look.
func (s state) waited(before state, in Input, out Output) (state, bool) {
	var writes uint8
	if out.Status != failed {
		writes = in.written()
	}
	var left [len(s.early)]early
	n := 0
	for _, e := range s.early {
		switch {
		case e == early{}, before.haunts(e.ghost) && !s.haunts(e.ghost), writes&(e.writes|e.looks) != 0:
		case out.Status != open:
			return s, false
		default:
			left[n] = e
			n++
		}
	}
	s.early = left
	return s, true
}

// haunts reports whether a ghost has a cell left.
func (s state) haunts(g int16) bool { return slices.Contains(s.ghost[:], g) }

// exorcised is s where the ghost is an operation as others are.
func (s state) exorcised(g int16) state {
	for i, other := range s.ghost {
		if other == g {
			s.ghost[i], s.under[i] = 0, Cell{}
		}
	}
	return s
}

// inherits reports whether a write that says nothing of when its key was created passes on what a ghost has changed of it.
func (s state) inherits(w Write, since kv.Revision) bool {
	return !w.Delete && since == 0 && s.cells[w.Slot].Created != s.under[w.Slot].Created
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
		s.under[w.Slot] = Cell{}
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
func storeModel() porcupine.Model { return modelFrom(state{}) }

// narrowModels are those of stores of which no more than a few open operations happen between two others. What fits one of
// them fits storeModel, too, and is found faster.
func narrowModels() []porcupine.Model {
	return []porcupine.Model{modelFrom(state{most: 1}), modelFrom(state{most: 2})}
}

// exactModel is that of a store where open operations may happen anywhere. It says the same as storeModel, later.
func exactModel() porcupine.Model { return modelFrom(state{exact: true}) }

func modelFrom(first state) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return &first },
		Step: func(s, in, out any) (bool, any) {
			now, op := s.(*state), in.(Input)
			if o := out.(Output); o.Status != open || now.ended || now.admits(&op) {
				if ok, next := step(*now, op, o); ok {
					return true, &next
				}
			}
			return false, s
		},
		Equal:             func(a, b any) bool { return *a.(*state) == *b.(*state) },
		DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
		DescribeState:     func(s any) string { return describeState(*s.(*state)) },
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
