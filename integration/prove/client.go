package prove

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// A client makes random operations, one after the other, and records them.
type client struct {
	id      int
	rng     *rand.Rand
	caller  caller
	h       *history
	dir     string
	timeout time.Duration // of each operation
	hasty   func() bool   // whether this operation gets next to no time
	list    bool          // lists are snapshots

	values int
	known  map[string]map[int]kv.Revision // of each family, what this client saw last; 0: absent
	own    []backendChange
	doubt  *Input // a write that may have been applied, if nothing was heard of the store since
}

// backendChange is a change of the client's own key, in order.
type backendChange struct {
	in  Input
	out Output
}

func newClient(id int, seed uint64, c caller, h *history, dir string) *client {
	return &client{
		id: id, rng: rand.New(rand.NewPCG(seed, uint64(id))), caller: c, h: h, dir: dir, timeout: 2 * time.Second,
		hasty: func() bool { return false },
		known: map[string]map[int]kv.Revision{famShared: {}, famTxn: {}, famOwn: {}},
	}
}

// The keys of the families. Few, so that clients meet.
const (
	sharedKeys = 4
	txnKeys    = 3
)

// muchDoubt is after how many writes in doubt in one round a client looks what has come of its own before it goes on, as a
// program would. Until then it writes on, which is harder on the store. But a server that answers each write of ten seconds
// with a failure that may be none leaves hundreds in doubt, and no checker can judge those.
const muchDoubt = 60

// one makes one operation. It reports whether the store took part.
func (c *client) one(ctx context.Context) bool {
	in := c.choose()
	if c.doubt != nil && c.h.inDoubt() >= muchDoubt {
		in = Input{Op: opGet, Dir: c.dir, Family: c.doubt.Family, Reads: []int{c.doubt.Writes[0].Slot}}
	}
	timeout := c.timeout
	if c.hasty() && c.rng.IntN(4) == 0 {
		timeout = time.Duration(c.rng.IntN(3000)) * time.Microsecond
	}
	return c.make(ctx, in, timeout).Status < never
}

// make carries an operation out and records it.
func (c *client) make(ctx context.Context, in Input, timeout time.Duration) Output {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	call := c.h.now()
	out := c.caller.call(ctx, in)
	c.h.record(c.id, in, out, call)
	c.learn(in, out)
	return out
}

func (c *client) choose() Input {
	switch n := c.rng.IntN(100); {
	case n < 50:
		return c.single(famShared, c.rng.IntN(sharedKeys))
	case n < 85:
		return c.several()
	default:
		return c.single(famOwn, c.id)
	}
}

// value returns one that no other put of the round writes.
func (c *client) value() string {
	c.values++
	return fmt.Sprintf("%d.%d", c.id, c.values)
}

// single is an operation on one key.
func (c *client) single(family string, slot int) Input {
	in := Input{Dir: c.dir, Family: family}
	rev := c.known[family][slot]
	write := Write{Slot: slot, Value: c.value()}
	n := c.rng.IntN(100)
	if family == famOwn {
		n = 30 + c.rng.IntN(70) // its reader is the watch
	}
	switch {
	case n < 25:
		in.Op, in.Reads = opGet, []int{slot}
	case n < 30:
		in.Op = opGetMany
		for i := range sharedKeys {
			in.Reads = append(in.Reads, i)
		}
	case n < 50:
		in.Op, in.Writes = opPut, []Write{write}
	case n < 60:
		in.Op, in.Checks, in.Writes = opCreate, []Check{{If: backend.Absent, Slot: slot}}, []Write{write}
	case n < 85 && rev != 0:
		in.Op, in.Checks, in.Writes = opUpdate, []Check{{If: backend.AtRevision, Slot: slot, Revision: rev}}, []Write{write}
	case n < 90 && rev != 0:
		in.Op, in.Checks, in.Writes = opDeleteAt, []Check{{If: backend.AtRevision, Slot: slot, Revision: rev}}, []Write{{Slot: slot, Delete: true}}
	default:
		in.Op, in.Checks, in.Writes = opDelete, []Check{{If: backend.Present, Slot: slot}}, []Write{{Slot: slot, Delete: true}}
	}
	return in
}

// several is an operation on the keys of transactions: one, or a read of what there is at one moment.
func (c *client) several() Input {
	in := Input{Op: opTxn, Dir: c.dir, Family: famTxn}
	n := c.rng.IntN(100)
	switch {
	case n < 15:
		in.Op, in.Reads = opGet, []int{c.rng.IntN(txnKeys)}
		return in
	case n < 25 && c.list:
		in.Op = opList
		for i := range txnKeys {
			in.Reads = append(in.Reads, i)
		}
		return in
	case n < 40: // a look at all keys at once: what was seen last is there still, all of it
		for i := range txnKeys {
			in.Checks = append(in.Checks, c.asKnown(i))
		}
		return in
	}
	for _, i := range c.rng.Perm(txnKeys)[:1+c.rng.IntN(txnKeys)] {
		switch c.rng.IntN(6) {
		case 0:
			in.Checks = append(in.Checks, Check{If: backend.Present, Slot: i})
		case 1:
			in.Checks = append(in.Checks, Check{If: backend.Absent, Slot: i})
		case 2:
			in.Checks = append(in.Checks, c.asKnown(i))
		}
	}
	for _, i := range c.rng.Perm(txnKeys)[:1+c.rng.IntN(txnKeys)] {
		if c.rng.IntN(4) == 0 {
			in.Writes = append(in.Writes, Write{Slot: i, Delete: true})
		} else {
			in.Writes = append(in.Writes, Write{Slot: i, Value: c.value()})
		}
	}
	return in
}

func (c *client) asKnown(slot int) Check {
	if rev := c.known[famTxn][slot]; rev != 0 {
		return Check{If: backend.AtRevision, Slot: slot, Revision: rev}
	}
	return Check{If: backend.Absent, Slot: slot}
}

// learn remembers revisions for conditions to come, and the changes of the client's own key.
func (c *client) learn(in Input, out Output) {
	known := c.known[in.Family]
	switch {
	case out.Status == open && len(in.Writes) > 0:
		c.doubt = &in
	case out.Status < open:
		c.doubt = nil
	}
	switch out.Status {
	case done:
		for i, slot := range in.Reads {
			known[slot] = out.Cells[i].Revision
		}
		for _, w := range in.Writes {
			if known[w.Slot] = out.Revision; w.Delete {
				known[w.Slot] = 0
			}
		}
	case failed:
		// Look again at once: without a new revision all later conditions would fail as well.
		delete(known, out.Slot)
	}
	if in.Family == famOwn && len(in.Writes) > 0 && (out.Status == done || out.Status == open) {
		c.own = append(c.own, backendChange{in, out})
	}
}
