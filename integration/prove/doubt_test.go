package prove

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv"
)

// simulated is a history of transactions as a correct store makes it, of which a share of the writes has lost its reply:
// some are done at once, some beyond operations that come after them, some never.
func simulated(seed uint64, clients, each int, lost float64) []operation {
	type event struct {
		at int64
		do func()
	}
	var (
		rng    = rand.New(rand.NewPCG(seed, 0))
		h      = newHistory()
		now    int64
		queue  []event
		store  state
		rev    kv.Revision
		making func(c *client, left int)
	)
	after := func(d int64, do func()) { queue = append(queue, event{now + 1 + d, do}) }
	// effect carries an operation out.
	effect := func(in Input) (out Output) {
		for _, c := range in.Checks {
			if !store.holds(c) {
				return Output{Status: failed, Slot: c.Slot, Reason: reason(c.If)}
			}
		}
		for _, slot := range in.Reads {
			out.Cells = append(out.Cells, store.cells[slot])
		}
		if len(in.Writes) > 0 {
			rev++
		}
		if in.puts() {
			out.Revision = rev
		}
		store = store.apply(in.Writes, rev)
		return out
	}
	making = func(c *client, left int) {
		if left == 0 {
			return
		}
		in, call := c.several(), now
		end := func(out Output) {
			op := operation{client: c.id, in: in, out: out, call: call, ret: now}
			if out.Status == open {
				op.ret = notYet
			}
			for _, cell := range out.Cells {
				h.sawLocked(cell, now)
			}
			h.ops = append(h.ops, op)
			c.learn(in, out)
			after(rng.Int64N(5), func() { making(c, left-1) })
		}
		switch {
		case len(in.Writes) == 0 || rng.Float64() >= lost:
			after(rng.Int64N(10), func() {
				out := effect(in)
				after(rng.Int64N(10), func() { end(out) })
			})
			return
		case rng.IntN(3) == 0:
			after(rng.Int64N(10), func() { effect(in) })
		case rng.IntN(2) == 0:
			after(rng.Int64N(300), func() { effect(in) })
		}
		after(20, func() { end(Output{Status: open}) })
	}
	for i := range clients {
		c := newClient(i, seed, nil, h, "")
		c.list = true
		making(c, each)
	}
	for len(queue) > 0 {
		i := 0
		for j := range queue {
			if queue[j].at < queue[i].at {
				i = j
			}
		}
		next := queue[i]
		queue = slices.Delete(queue, i, i+1)
		now = next.at
		next.do()
	}
	return h.settled()
}

// spoilt changes the answer of one operation, to one that may be wrong.
func spoilt(rng *rand.Rand, ops []operation) {
	op, other := &ops[rng.IntN(len(ops))], ops[rng.IntN(len(ops))]
	switch {
	case op.out.Status == failed:
		op.out = Output{}
	case len(op.in.Reads) > 0 && len(other.in.Reads) > 0 && op.out.Status == done:
		op.out.Cells = slices.Clone(op.out.Cells)
		op.out.Cells[0] = other.out.Cells[0]
	case len(op.in.Checks) > 0:
		c := op.in.Checks[rng.IntN(len(op.in.Checks))]
		op.out = Output{Status: failed, Slot: c.Slot, Reason: reason(c.If)}
	case op.out.Status == done && len(op.in.Writes) > 0:
		op.out = Output{Status: failed}
		op.in.Checks, op.in.Writes = []Check{{If: 1}}, nil
	}
}

// checked is porcupine's verdict on the part of a history that is of transactions.
func checked(ops []operation, m porcupine.Model) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(m, onlyPart(ops), 20*time.Second)
}

// onlyPart is the one part of a history of transactions.
func onlyPart(ops []operation) []porcupine.Operation {
	j := &judge{h: newHistory()}
	j.h.start = j.h.start.Add(-time.Hour) // all of it is over
	return j.parts(ops)[0].ops
}

// TestModelsAgree: where open operations are allowed only if something needs them, the same histories are found right and
// wrong as where they are allowed anywhere.
func TestModelsAgree(t *testing.T) {
	wrong := 0
	for seed := range uint64(1500) {
		ops := simulated(seed, 3, 7, 0.4)
		if got := checked(ops, storeModel()); got != porcupine.Ok {
			t.Fatalf("seed %d: a history that is right: %v", seed, got)
		}
		spoilt(rand.New(rand.NewPCG(seed, 1)), ops)
		want := checked(ops, exactModel())
		if want == porcupine.Unknown {
			continue
		}
		agree := want == checked(ops, storeModel())
		for _, m := range narrowModels() {
			agree = agree && (want == porcupine.Ok || checked(ops, m) == porcupine.Illegal)
		}
		if !agree {
			for _, o := range ops {
				t.Logf("%d-%d: %s", o.call, o.ret, describe(o.in, o.out))
			}
			t.Fatalf("seed %d: the models do not agree; %v where open operations may happen anywhere", seed, want)
		}
		if want == porcupine.Illegal {
			wrong++
		}
	}
	if wrong < 300 {
		t.Errorf("only %d histories are wrong", wrong)
	}
}

// TestManyInDoubt: a history of hundreds of transactions, of which a fifth of the writes is in doubt, can be judged. By the
// model where they may happen anywhere it takes longer than anybody waits.
func TestManyInDoubt(t *testing.T) {
	for _, seed := range []uint64{0, 1, 3, 5} { // the third one takes minutes: it would be told as not checked
		ops := simulated(seed, 5, 160, 0.2)
		j := &judge{h: newHistory(), patience: 30 * time.Second}
		j.h.start = j.h.start.Add(-time.Hour)
		begun := time.Now()
		j.linearizable(ops)
		for _, v := range append(j.found, j.unchecked...) {
			t.Errorf("seed %d: %v", seed, v)
		}
		t.Logf("seed %d: %v", seed, time.Since(begun))
	}
}

// TestNotChecked: a history that is too hard is no violation.
func TestNotChecked(t *testing.T) {
	j := &judge{h: newHistory(), patience: 2 * time.Nanosecond}
	j.h.start = j.h.start.Add(-time.Hour)
	j.linearizable(simulated(1, 5, 160, 0.2))
	if len(j.found) > 0 || len(j.unchecked) != 1 {
		t.Errorf("found %v, unchecked %v", j.found, j.unchecked)
	}
}
