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
	found    []Violation
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

// ranked numbers the open deletes of each key in the order of their calls. It does not matter which of them happened, so
// only the order of the calls is tried: where a later one could have happened, so could an earlier one.
func ranked(ops []porcupine.Operation) {
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var n [slots]int
	for i := range ops {
		in := ops[i].Input.(Input)
		if ops[i].Output.(Output).Status == open && in.Op == opDelete && n[in.slot()] < math.MaxInt8 {
			n[in.slot()]++
			in.rank = n[in.slot()]
			ops[i].Input = in
		}
	}
}

// linearizable checks every part by itself.
func (j *judge) linearizable(ops []operation) {
	for _, p := range j.parts(ops) {
		j.check(p.String(), []porcupine.Model{storeModel(false), storeModel(true)}, p.ops)
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
		j.check(p.String()+" as the watch told it", []porcupine.Model{t.model()}, ops)
	}
}

// check runs porcupine and keeps the picture of a history that is not linearizable, or too hard to tell. The easiest way
// to explain a history is tried first: that nothing happened of what is open. Then come the models, of which the last one
// decides.
func (j *judge) check(what string, models []porcupine.Model, ops []porcupine.Operation) {
	closed := slices.DeleteFunc(slices.Clone(ops), func(op porcupine.Operation) bool { return op.Output.(Output).Status == open })
	if porcupine.CheckOperationsTimeout(models[0], closed, j.patience/2) == porcupine.Ok {
		return
	}
	last := len(models) - 1
	for _, m := range models[:last] {
		if porcupine.CheckOperationsTimeout(m, ops, j.patience/2) == porcupine.Ok {
			return
		}
	}
	m := models[last]
	result, info := porcupine.CheckOperationsVerbose(m, ops, j.patience)
	switch result {
	case porcupine.Ok:
		return
	case porcupine.Unknown:
		what = fmt.Sprintf("%s: no answer within %v for %d operations (a failure to check)", what, j.patience, len(ops))
	default:
		what += ": not linearizable, " + stuck(m, info, ops)
	}
	v := Violation{What: what}
	if j.dir != "" {
		file, err := j.picture(what, m, info)
		if err != nil {
			v.What += fmt.Sprintf(" (and no picture: %v)", err)
		}
		v.File = file
	}
	j.found = append(j.found, v)
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
