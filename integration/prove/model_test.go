package prove

import (
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// Shorthands for histories made by hand.
func put(slot int, v string) Input {
	return Input{Op: opPut, Family: famShared, Writes: []Write{{Slot: slot, Value: v}}}
}

func get(slot int) Input { return Input{Op: opGet, Family: famShared, Reads: []int{slot}} }

func update(slot int, v string, rev kv.Revision) Input {
	return Input{Op: opUpdate, Family: famShared, Checks: []Check{{If: backend.AtRevision, Slot: slot, Revision: rev}}, Writes: []Write{{Slot: slot, Value: v}}}
}

func create(slot int, v string) Input {
	return Input{Op: opCreate, Family: famShared, Checks: []Check{{If: backend.Absent, Slot: slot}}, Writes: []Write{{Slot: slot, Value: v}}}
}

func del(slot int) Input {
	return Input{Op: opDelete, Family: famShared, Checks: []Check{{If: backend.Present, Slot: slot}}, Writes: []Write{{Slot: slot, Delete: true}}}
}

func txn(in ...Input) Input {
	t := Input{Op: opTxn, Family: famTxn}
	for _, i := range in {
		t.Checks, t.Writes = append(t.Checks, i.Checks...), append(t.Writes, i.Writes...)
	}
	return t
}

func at(rev kv.Revision) Output              { return Output{Revision: rev} }
func found(v string, rev kv.Revision) Output { return Output{Cells: []Cell{{Value: v, Revision: rev}}} }
func no(slot int, reason string) Output      { return Output{Status: failed, Slot: slot, Reason: reason} }

var (
	absent  = Output{Cells: []Cell{{}}}
	nothing = Output{}
	gone    = Output{Status: open}
)

// op is an operation that takes from call to ret.
func op(call, ret int64, in Input, out Output) operation {
	if out.Status == open {
		ret = notYet
	}
	return operation{in: in, out: out, call: call, ret: ret}
}

// judged returns what is wrong with a history.
func judged(ops []operation, events []backend.Event) string {
	h := newHistory()
	for _, o := range ops {
		for i := range o.in.Reads {
			h.sawLocked(o.out.Cells[i], o.ret)
		}
		h.ops = append(h.ops, o)
	}
	for _, ev := range events {
		h.sawLocked(Cell{Value: string(ev.Value), Revision: ev.Revision}, 1000)
	}
	j := &judge{h: h, patience: 10 * time.Second}
	ops = h.settled()
	j.linearizable(ops)
	if err := inOrder(ops); err != nil {
		j.add("%v", err)
	}
	if events != nil {
		j.asTold(ops, events)
	}
	for _, p := range h.problems {
		j.add("%s", p)
	}
	j.found = append(j.found, j.unchecked...)
	var all []string
	for _, v := range j.found {
		all = append(all, v.What)
	}
	return strings.Join(all, "; ")
}

func TestGoodHistories(t *testing.T) {
	for name, ops := range map[string][]operation{
		"one after the other": {
			op(0, 1, get(0), absent), op(2, 3, create(0, "a"), at(5)), op(4, 5, get(0), found("a", 5)), op(6, 7, update(0, "b", 5), at(6)),
			op(8, 9, update(0, "c", 5), no(0, "conflict")), op(10, 11, create(0, "d"), no(0, "exists")),
			op(12, 13, del(0), nothing), op(14, 15, del(0), no(0, "not found")), op(16, 17, put(0, "e"), at(9)),
		},
		"a read beside a put sees the old value":     {op(0, 1, put(0, "a"), at(1)), op(2, 9, put(0, "b"), at(2)), op(3, 4, get(0), found("a", 1))},
		"a lost put that was applied late":           {op(0, 1, put(0, "a"), at(1)), op(2, 0, put(0, "b"), gone), op(3, 4, get(0), found("a", 1)), op(5, 6, get(0), found("b", 2))},
		"a lost put that was never applied":          {op(0, 1, put(0, "a"), at(1)), op(2, 0, put(0, "b"), gone), op(3, 4, get(0), found("a", 1))},
		"a lost delete that only a create tells of":  {op(0, 1, put(0, "a"), at(1)), op(2, 0, del(0), gone), op(3, 4, create(0, "b"), at(4))},
		"a lost update whose condition did not hold": {op(0, 1, put(0, "a"), at(3)), op(2, 0, update(0, "b", 2), gone), op(3, 4, get(0), found("a", 3))},
		"an unseen lost put explains a conflict":     {op(0, 1, put(0, "a"), at(1)), op(2, 0, put(0, "b"), gone), op(3, 4, update(0, "c", 1), no(0, "conflict"))},
		"a lost delete of which the creating revision tells": {
			op(0, 1, put(0, "a"), at(1)), op(2, 0, del(0), gone), op(3, 4, put(0, "b"), at(5)), op(5, 6, update(0, "c", 5), at(6)),
			op(7, 8, get(0), Output{Cells: []Cell{{Value: "c", Revision: 6, Created: 5}}}),
		},
		"a transaction is one step":                    {op(0, 9, txn(put(0, "a"), put(1, "b")), at(3)), op(1, 2, Input{Op: opList, Family: famTxn, Reads: []int{0, 1}}, Output{Cells: []Cell{{}, {}}})},
		"a transaction of which one check failed":      {op(0, 1, txn(put(0, "a")), at(1)), op(2, 3, txn(create(0, "b"), put(1, "c")), no(0, "exists"))},
		"revisions of writes at one time in any order": {op(0, 9, put(0, "a"), at(2)), op(0, 8, put(1, "b"), at(1))},
	} {
		if wrong := judged(ops, nil); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
}

func TestBadHistories(t *testing.T) {
	both := Input{Op: opList, Family: famTxn, Reads: []int{0, 1}}
	for name, ops := range map[string][]operation{
		"lost update":          {op(0, 1, put(0, "a"), at(1)), op(2, 3, put(0, "b"), at(2)), op(4, 5, get(0), found("a", 1))},
		"stale read":           {op(0, 1, put(0, "a"), at(1)), op(2, 3, put(0, "b"), at(2)), op(4, 5, get(0), found("b", 2)), op(6, 7, get(0), found("a", 1))},
		"read from nowhere":    {op(0, 1, put(0, "a"), at(1)), op(2, 3, get(0), found("z", 2))},
		"two win one revision": {op(0, 1, put(0, "a"), at(1)), op(2, 9, update(0, "b", 1), at(2)), op(3, 8, update(0, "c", 1), at(3))},
		"two creates win":      {op(0, 9, create(0, "a"), at(1)), op(0, 9, create(0, "b"), at(2))},
		"resurrected delete":   {op(0, 1, put(0, "a"), at(1)), op(2, 3, del(0), nothing), op(4, 5, get(0), found("a", 1))},
		"a key vanishes":       {op(0, 1, put(0, "a"), at(1)), op(2, 3, get(0), absent)},
		"two deletes find it":  {op(0, 1, put(0, "a"), at(1)), op(2, 9, del(0), nothing), op(2, 9, del(0), nothing)},
		"a lost put applied before its call": {
			op(0, 1, put(0, "a"), at(1)), op(2, 3, get(0), found("b", 2)), op(4, 0, put(0, "b"), gone),
		},
		"a lost put applied twice": {
			op(0, 0, put(0, "a"), gone), op(2, 3, get(0), found("a", 2)), op(4, 5, put(0, "b"), at(3)), op(6, 7, get(0), found("a", 4)),
		},
		"a revision used again after a delete": {op(0, 1, put(0, "a"), at(5)), op(2, 3, del(0), nothing), op(4, 5, put(0, "b"), at(5))},
		"a revision that goes back":            {op(0, 1, put(0, "a"), at(5)), op(2, 3, del(0), nothing), op(4, 5, put(0, "b"), at(4))},
		"revisions of two keys against time":   {op(0, 1, put(0, "a"), at(5)), op(2, 3, put(1, "b"), at(4))},
		"two keys with one revision":           {op(0, 9, put(0, "a"), at(5)), op(0, 9, put(1, "b"), at(5))},
		"a conflict without a cause":           {op(0, 1, put(0, "a"), at(1)), op(2, 3, update(0, "b", 1), no(0, "conflict"))},
		"a wrong reason":                       {op(0, 1, create(0, "a"), no(0, "not found"))},
		"half a transaction":                   {op(0, 1, txn(put(0, "a"), put(1, "b")), at(1)), op(2, 3, both, Output{Cells: []Cell{{Value: "a", Revision: 1}, {}}})},
		"a write slips past a check": {
			op(0, 1, txn(put(0, "a")), at(1)), op(2, 3, txn(put(0, "b")), at(2)),
			op(4, 5, txn(Input{Checks: []Check{{If: backend.AtRevision, Slot: 0, Revision: 1}}}, put(1, "c")), at(3)),
		},
		"created does not fit": {op(0, 1, put(0, "a"), at(1)), op(2, 3, get(0), Output{Cells: []Cell{{Value: "a", Revision: 1, Created: 7}}})},
	} {
		if judged(ops, nil) == "" {
			t.Errorf("%s: not found", name)
		}
	}
}

func event(kind backend.Kind, slot int, v string, rev kv.Revision) backend.Event {
	return backend.Event{Kind: kind, Entry: backend.Entry{Key: put(slot, v).key(slot), Value: []byte(v), Revision: rev}}
}

// TestTold judges what lossless watches may tell of one history.
func TestTold(t *testing.T) {
	ops := []operation{
		op(0, 1, put(0, "a"), at(1)), op(2, 3, update(0, "b", 1), at(2)), op(4, 0, del(0), gone), op(5, 6, get(0), found("b", 2)), op(7, 0, put(0, "c"), gone),
		op(8, 9, put(0, "d"), at(9)),
	}
	a, b := event(backend.Created, 0, "a", 1), event(backend.Updated, 0, "b", 2)
	went, c, d := event(backend.Deleted, 0, "", 3), event(backend.Created, 0, "c", 4), event(backend.Updated, 0, "d", 9)
	for name, events := range map[string][]backend.Event{
		"all of them":                {a, b, went, c, d},
		"nothing that was lost":      {a, b, d},
		"the put that was lost":      {a, b, event(backend.Updated, 0, "c", 5), d},
		"and late":                   {a, b, d, event(backend.Updated, 0, "c", 12), event(backend.Deleted, 0, "", 13)},
		"beside those of other keys": {a, event(backend.Created, 1, "x", 1), b, d},
	} {
		if wrong := judged(ops, events); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	for name, events := range map[string][]backend.Event{
		"nothing":             {},
		"a missing event":     {a, d},
		"a missing last one":  {a, b},
		"an event too many":   {a, b, went, event(backend.Created, 0, "z", 5), d},
		"two deletes for one": {a, b, went, c, event(backend.Deleted, 0, "", 6), d},
		"a delete too early":  {a, went, event(backend.Created, 0, "b", 5), d},
		"another order":       {b, a, d},
	} {
		if judged(ops, events) == "" {
			t.Errorf("%s: not found", name)
		}
	}
}

// TestPicture: what is not linearizable leaves a picture.
func TestPicture(t *testing.T) {
	j := &judge{name: "Example 1", dir: t.TempDir(), patience: time.Second, h: newHistory()}
	j.h.annotate("kill node 0", 1, 2)
	j.check("family s", search{full: storeModel()}, []porcupine.Operation{{Input: get(0), Output: found("z", 1), Return: 1}})
	if len(j.found) != 1 || !strings.HasSuffix(j.found[0].File, "example-1-family-s.html") {
		t.Errorf("found %v", j.found)
	}
}
