package prove

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/polykv/kv"
)

// An operation is one call of a client.
type operation struct {
	client    int
	in        Input
	out       Output
	call, ret int64 // ns since the history began; an open operation has not returned
}

// notYet is when an open operation returns.
const notYet = math.MaxInt64

// sighting is the first time that somebody saw a value.
type sighting struct {
	rev, created kv.Revision
	at           int64
	told         bool // by a watch
}

// history is what the clients of a round did and saw. Its methods are safe for concurrent use.
type history struct {
	start time.Time

	mu       sync.Mutex
	ops      []operation
	open     int                 // operations that may have been carried out
	refused  int                 // operations that the store never got
	seen     map[string]sighting // by value
	problems []string
	events   []annotation
}

// annotation is a fault, for the picture of a history.
type annotation struct {
	text       string
	start, end int64
}

func newHistory() *history {
	return &history{start: time.Now(), seen: map[string]sighting{}}
}

func (h *history) now() int64 { return int64(time.Since(h.start)) }

// record adds an operation.
func (h *history) record(client int, in Input, out Output, call int64) {
	ret := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch out.Status {
	case never:
		h.refused++
		return
	case broken:
		h.problem("%s", describe(in, out))
		return
	case open:
		if len(in.Writes) == 0 {
			h.refused++ // a read without an answer tells nothing
			return
		}
		ret = notYet
		h.open++
	case done:
		for i := range in.Reads {
			h.sawLocked(out.Cells[i], ret)
		}
		for _, w := range in.Writes {
			if !w.Delete {
				h.sawLocked(Cell{Value: w.Value, Revision: out.Revision}, ret)
			}
		}
	}
	h.ops = append(h.ops, operation{client: client, in: in, out: out, call: call, ret: ret})
}

// inDoubt is how many writes nobody knows the outcome of.
func (h *history) inDoubt() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open
}

// saw tells that a value was seen, in an event for instance.
func (h *history) saw(c Cell) {
	at := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sawLocked(c, at)
	if s, ok := h.seen[c.Value]; ok {
		s.told = true
		h.seen[c.Value] = s
	}
}

func (h *history) sawLocked(c Cell, at int64) {
	if c.Value == "" || c.Revision == 0 {
		return
	}
	was, ok := h.seen[c.Value]
	if !ok {
		h.seen[c.Value] = sighting{rev: c.Revision, created: c.Created, at: at}
		return
	}
	if was.rev != c.Revision {
		h.problem("the value %s, which was put once, has the revisions %d and %d", c.Value, was.rev, c.Revision)
	}
	if was.created == 0 {
		was.created = c.Created
	} else if c.Created != 0 && c.Created != was.created {
		h.problem("the value %s has been there since %d, and since %d", c.Value, was.created, c.Created)
	}
	was.at = min(was.at, at)
	h.seen[c.Value] = was
}

// fail tells of a violation that was found on the way.
func (h *history) fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem(format, args...)
}

func (h *history) problem(format string, args ...any) {
	if len(h.problems) < 20 { // the first ones tell
		h.problems = append(h.problems, fmt.Sprintf(format, args...))
	}
}

func (h *history) annotate(text string, start, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, annotation{text, start, end})
}

func (h *history) count() (recorded, refused int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops), h.refused
}

// settled returns the operations. An open one whose value somebody has seen was carried out before that: it is no longer
// open, which keeps the search for an order short.
func (h *history) settled() []operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := slices.Clone(h.ops)
	for i := range ops {
		op := &ops[i]
		for _, w := range op.in.Writes {
			if s, ok := h.seen[w.Value]; ok && !w.Delete && op.out.Status == open {
				op.out = Output{Status: done, Revision: s.rev}
				op.ret = min(op.ret, max(s.at, op.call))
			}
		}
		if op.out.Status != done {
			continue
		}
		op.out.created = make([]kv.Revision, len(op.in.Writes))
		for i, w := range op.in.Writes {
			if !w.Delete {
				op.out.created[i] = h.seen[w.Value].created
			}
		}
	}
	return ops
}

// histories splits operations by family, in porcupine's form. A read of several keys that is no snapshot is as many
// operations.
func histories(ops []operation) map[string][]porcupine.Operation {
	out := map[string][]porcupine.Operation{}
	for _, op := range ops {
		in, res := op.in, op.out
		if in.Op != opGetMany {
			out[in.Family] = append(out[in.Family], porcupine.Operation{ClientId: op.client, Input: in, Output: res, Call: op.call, Return: op.ret})
			continue
		}
		for i, slot := range in.Reads {
			one, got := in, res
			one.Reads, got.Cells = []int{slot}, res.Cells[i:i+1]
			out[in.Family] = append(out[in.Family], porcupine.Operation{ClientId: op.client, Input: one, Output: got, Call: op.call, Return: op.ret})
		}
	}
	return out
}

// inOrder checks that among all keys the order of revisions is the order of time (R10), and that no two operations have
// one revision.
func inOrder(ops []operation) error {
	var writes []operation
	for _, op := range ops {
		if op.out.Status == done && op.out.Revision != 0 && op.in.puts() {
			writes = append(writes, op)
		}
	}
	slices.SortFunc(writes, func(a, b operation) int { return cmp.Compare(a.out.Revision, b.out.Revision) })
	first := int64(notYet) // the earliest return of those with a higher revision
	var next operation
	for i := len(writes) - 1; i >= 0; i-- {
		w := writes[i]
		if i+1 < len(writes) && writes[i+1].out.Revision == w.out.Revision {
			return fmt.Errorf("two operations have revision %d: %s and %s", w.out.Revision, describe(w.in, w.out), describe(next.in, next.out))
		}
		if first < w.call {
			return fmt.Errorf("%s began after an operation with a higher revision had returned", describe(w.in, w.out))
		}
		if w.ret < first {
			first = w.ret
		}
		next = w
	}
	return nil
}
