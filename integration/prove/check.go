package prove

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv/backend"
)

// A Violation is something that must not be.
type Violation struct {
	What string
	File string // porcupine's picture of the history, if there is one
}

func (v Violation) String() string {
	if v.File == "" {
		return v.What
	}
	return v.What + "; see " + v.File
}

// A judge looks at what a round left.
type judge struct {
	name     string        // of the round, for files
	dir      string        // for pictures; "": none are made
	patience time.Duration // for each history
	h        *history

	found     []Violation
	unchecked []Violation // what nobody can tell
}

func (j *judge) add(format string, args ...any) {
	j.found = append(j.found, Violation{What: fmt.Sprintf(format, args...)})
}

// part is what is judged by itself: all operations of a family, or those on one key.
type part struct {
	family string
	slot   int // negative: all
	ops    []porcupine.Operation
}

func (p part) String() string {
	if p.slot < 0 {
		return "family " + p.family
	}
	return fmt.Sprintf("family %s key %d", p.family, p.slot)
}

// parts splits a history, and adds to each part the end of everything that returned.
func (j *judge) parts(ops []operation) (out []part) {
	end := j.h.now()
	for _, op := range ops {
		if op.ret != notYet {
			end = max(end, op.ret)
		}
	}
	byFamily := histories(ops)
	for _, family := range []string{famShared, famTxn, famOwn} {
		var split []part
		if family == famTxn {
			split = []part{{family, -1, byFamily[family]}}
		} else {
			for slot := range slots {
				split = append(split, part{family: family, slot: slot})
			}
			for _, op := range byFamily[family] {
				p := &split[op.Input.(Input).slot()]
				p.ops = append(p.ops, op)
			}
		}
		for _, p := range split {
			if len(p.ops) > 0 {
				ranked(p.ops)
				p.ops = append(p.ops, porcupine.Operation{Input: Input{Op: opEnd}, Output: Output{}, Call: end + 1, Return: end + 2})
				out = append(out, p)
			}
		}
	}
	return out
}

// ranked numbers what the model wants numbered: acknowledged puts by revision, open operations, and of those the plain
// deletes of each key in the order of their calls. It does not matter which of these happened, so only the order of the
// calls is tried: where a later one could have happened, so could an earlier one.
func ranked(ops []porcupine.Operation) {
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var n [slots]int
	var number int16
	var puts []int
	for i := range ops {
		in, out := ops[i].Input.(Input), ops[i].Output.(Output)
		switch {
		case out.Status == done && in.puts():
			puts = append(puts, i)
		case out.Status != open:
			continue
		}
		if out.Status == open && number < math.MaxInt16 {
			number++
			in.number = number
			if in.Op == opDelete && n[in.slot()] < math.MaxInt8 {
				n[in.slot()]++
				in.rank = n[in.slot()]
			}
			ops[i].Input = in
		}
	}
	slices.SortStableFunc(puts, func(a, b int) int {
		return cmp.Compare(ops[a].Output.(Output).Revision, ops[b].Output.(Output).Revision)
	})
	for order, i := range puts {
		in := ops[i].Input.(Input)
		in.order = order + 1
		ops[i].Input = in
	}
}

// linearizable checks every part by itself.
func (j *judge) linearizable(ops []operation) {
	exact := exactModel()
	for _, p := range j.parts(ops) {
		j.check(p.String(), search{narrow: narrowModels(), full: storeModel(), exact: &exact}, p.ops)
	}
}

// asTold checks every part against what a lossless watch told of it. What passes is linearizable.
func (j *judge) asTold(ops []operation, events []backend.Event) {
	for _, p := range j.parts(ops) {
		t, err := newTold(p.ops[0].Input.(Input), p.slot, events)
		if err != nil {
			j.add("%v", err)
			continue
		}
		ops := slices.DeleteFunc(p.ops, func(op porcupine.Operation) bool { return !t.concerns(op) })
		j.check(p.String()+" as the watch told it", search{full: t.model()}, ops)
	}
}

// search are the models by which an order is looked for, one after the other.
type search struct {
	narrow []porcupine.Model // what fits one of them is right
	full   porcupine.Model   // what does not fit is wrong
	exact  *porcupine.Model  // another word for full, if there is one
}

// check runs porcupine and keeps the picture of a history that is not linearizable, or too hard to tell. The easiest way
// to explain a history is tried first: that nothing happened of what is open.
func (j *judge) check(what string, s search, ops []porcupine.Operation) {
	fits := func(m porcupine.Model, ops []porcupine.Operation) bool {
		return porcupine.CheckOperationsTimeout(m, ops, j.patience/2) == porcupine.Ok
	}
	closed := slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool { return op.Output.(Output).Status == open })
	if fits(s.full, closed) {
		return
	}
	for _, m := range s.narrow {
		if fits(m, ops) {
			return
		}
	}
	result, info := porcupine.CheckOperationsVerbose(s.full, ops, j.patience)
	if result == porcupine.Ok {
		return
	}
	v := Violation{What: what + ": not linearizable, " + stuck(s.full, info, ops)}
	list := &j.found
	switch {
	case result == porcupine.Unknown:
		v.What = fmt.Sprintf("%s: no answer within %v for %d operations, %d of them open", what, j.patience, len(ops), len(ops)-len(closed))
		list = &j.unchecked
	case s.exact != nil && fits(*s.exact, ops):
		v.What += ", but for a model that says the same"
		list = &j.unchecked
	}
	if j.dir != "" {
		file, err := j.picture(v.What, s.full, info)
		if err != nil {
			v.What += fmt.Sprintf(" (and no picture: %v)", err)
		}
		v.File = file
	}
	*list = append(*list, v)
}

// stuck says which operation fits nowhere, as far as the search came.
func stuck(m porcupine.Model, info porcupine.LinearizationInfo, ops []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, p := range info.PartialLinearizationsOperations() {
		for _, l := range p {
			if len(l) > len(longest) {
				longest = l
			}
		}
	}
	s := m.Init()
	placed := map[string]bool{}
	mark := func(op porcupine.Operation) string {
		return fmt.Sprint(op.Call, op.Return, m.DescribeOperation(op.Input, op.Output))
	}
	for _, op := range longest {
		placed[mark(op)] = true
		_, s = m.Step(s, op.Input, op.Output)
	}
	var next *porcupine.Operation
	for i, op := range ops {
		if !placed[mark(op)] && (next == nil || op.Return < next.Return) {
			next = &ops[i]
		}
	}
	if next == nil {
		return "and nothing is left"
	}
	return fmt.Sprintf("stuck at {%s} in state {%s}", m.DescribeOperation(next.Input, next.Output), m.DescribeState(s))
}

func (j *judge) picture(what string, m porcupine.Model, info porcupine.LinearizationInfo) (string, error) {
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return "", err
	}
	var notes []porcupine.Annotation
	j.h.mu.Lock()
	for _, e := range j.h.events {
		notes = append(notes, porcupine.Annotation{Tag: "faults", Start: e.start, End: e.end, Description: e.text})
	}
	j.h.mu.Unlock()
	info.AddAnnotations(notes)
	what, _, _ = strings.Cut(what, ":")
	file := filepath.Join(j.dir, plain(j.name+"-"+what)+".html")
	return file, porcupine.VisualizePath(m, info, file)
}

// plain makes a file name of text.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
}

// withoutReads are the operations that write, or try to.
func withoutReads(ops []operation) []operation {
	return slices.DeleteFunc(slices.Clone(ops), func(op operation) bool { return len(op.in.Writes) == 0 })
}
