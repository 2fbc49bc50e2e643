package prove

import (
	"fmt"
	"strings"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// The families of keys of a round. They differ in how operations on them are judged.
const (
	famShared = "s" // several writers a key, operations on one key: one model a key
	famTxn    = "t" // transactions over several keys: one model of them all
	famOwn    = "o" // one writer a key, so that what watches tell can be compared change by change
)

// slots is how many keys a family may have.
const slots = 6

// An Op names the call of the library that an operation makes.
type Op string

const (
	opGet      Op = "get"
	opGetMany  Op = "get many"
	opPut      Op = "put"
	opCreate   Op = "create"
	opUpdate   Op = "update"
	opDelete   Op = "delete"
	opDeleteAt Op = "delete at"
	opTxn      Op = "txn"
	opList     Op = "list" // a snapshot of a family
	opEnd      Op = "end"  // no call: the end of what a watch told
)

// A Check is a condition on one key of a family.
type Check struct {
	If       backend.Condition
	Slot     int
	Revision kv.Revision `json:",omitempty"`
}

// A Write is a change of one key of a family. No two puts of a round write the same value.
type Write struct {
	Slot   int
	Delete bool   `json:",omitempty"`
	Value  string `json:",omitempty"`
}

// Input is what an operation asks for. Whatever the call, it is told as conditions, then writes or reads: a plain delete
// is one under the condition that the key is there.
type Input struct {
	Op     Op
	Dir    string // of the round
	Family string
	Checks []Check `json:",omitempty"`
	Writes []Write `json:",omitempty"`
	Reads  []int   `json:",omitempty"`
	Stale  bool    `json:",omitempty"`

	rank   int   // among open deletes of one key, from 1; see ranked
	order  int   // among acknowledged operations that put something, by revision, from 1
	number int16 // among open operations, from 1
}

func (in Input) key(slot int) string { return fmt.Sprintf("%s/%s/%d", in.Dir, in.Family, slot) }

// puts reports whether in writes a value.
func (in Input) puts() bool {
	for _, w := range in.Writes {
		if !w.Delete {
			return true
		}
	}
	return false
}

// A Status is how an operation ended.
type Status uint8

const (
	done   Status = iota // it was carried out
	failed               // a condition did not hold, and nothing was written
	open                 // nobody knows
	never                // it was not carried out and will not be
	broken               // an error that no rule allows
)

// Cell is what a key holds. The zero Cell is an absent key.
type Cell struct {
	Value    string
	Revision kv.Revision
	Created  kv.Revision // 0: unknown
}

// unknown is the revision of a write that nobody has seen.
const unknown = ^kv.Revision(0)

// Output is what an operation answered.
type Output struct {
	Status   Status
	Slot     int         `json:",omitempty"` // whose condition failed
	Reason   string      `json:",omitempty"` // exists, not found or conflict, of a failed one; the error of others
	Revision kv.Revision `json:",omitempty"` // of the writes
	Created  kv.Revision `json:",omitempty"` // of a single put, where the store tells
	Cells    []Cell      `json:",omitempty"` // of the reads

	created []kv.Revision // of each write, where somebody has seen it; 0: nobody has
}

// since is when the key of write i was created, as far as is known; 0: unknown.
func (o Output) since(i int) kv.Revision {
	if o.Created != 0 {
		return o.Created // of the one write
	}
	if i < len(o.created) {
		return o.created[i]
	}
	return 0
}

func (c Cell) String() string {
	if c.Revision == 0 {
		return "absent"
	}
	if c.Created != 0 && c.Created != unknown {
		return fmt.Sprintf("%s@%d (since %d)", c.Value, c.Revision, c.Created)
	}
	return fmt.Sprintf("%s@%d", c.Value, c.Revision)
}

// describe is an operation in words, for people.
func describe(in Input, out Output) string {
	var b strings.Builder
	b.WriteString(string(in.Op))
	for _, c := range in.Checks {
		fmt.Fprintf(&b, " if %d is %v", c.Slot, c.If)
		if c.If == backend.AtRevision {
			fmt.Fprintf(&b, " %d", c.Revision)
		}
	}
	for _, w := range in.Writes {
		if w.Delete {
			fmt.Fprintf(&b, " -%d", w.Slot)
		} else {
			fmt.Fprintf(&b, " %d=%s", w.Slot, w.Value)
		}
	}
	b.WriteString(" → ")
	switch out.Status {
	case failed:
		fmt.Fprintf(&b, "%s (%d)", out.Reason, out.Slot)
	case open:
		b.WriteString("unknown")
	case never, broken:
		b.WriteString(out.Reason)
	default:
		if out.Revision != 0 {
			fmt.Fprintf(&b, "@%d", out.Revision)
		}
		if out.Created != 0 {
			fmt.Fprintf(&b, " (since %d)", out.Created)
		}
		for i, slot := range in.Reads {
			fmt.Fprintf(&b, " %d=%v", slot, out.Cells[i])
		}
	}
	return b.String()
}
