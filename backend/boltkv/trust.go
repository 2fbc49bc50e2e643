package boltkv

import (
	"sync"

	"github.com/polykv/kv/internal/embedded"
)

// trust knows where a list can do without the checksums of values, which are
// compared to notice what others have written and take a fifth of its time.
//
// Transactions are numbered without a hole. So where a list has compared all
// checksums, and every transaction since was this engine's, there is nothing
// to notice. The first transaction of somebody else's, to whatever bucket, ends
// this.
type trust struct {
	mu          sync.Mutex
	first, last int64 // all of these are ours; 0: none
	checked     [8]checked
	next        int // of checked, to be written over
}

// checked is a list that had nothing to notice in a transaction.
type checked struct {
	scope embedded.Range
	at    int64 // 0: none
}

// committed tells of a transaction of this engine that was committed.
func (t *trust) committed(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id != t.last+1 {
		t.first = id
	}
	t.last = id
}

// unbroken reports whether all transactions after from, up to id, are ours.
// The caller holds mu.
func (t *trust) unbroken(from, id int64) bool {
	return id == from || id > from && from >= t.first-1 && id <= t.last
}

// covers reports whether a view of number id can be trusted in all of r.
func (t *trust) covers(r embedded.Range, id int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.checked {
		if c := &t.checked[i]; c.at != 0 && t.unbroken(c.at, id) && r.Within(c.scope) {
			return true
		}
	}
	return false
}

// check is how far a list has come with comparing.
type check struct {
	at      int64 // the last view; 0: none yet
	useless bool
}

// page notes that a page of the list was compared in the view of number id.
func (t *trust) page(c *check, id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.at != 0 && !t.unbroken(c.at, id) {
		c.useless = true // for what was compared before
	}
	c.at = id
}

// done notes that the list of r has come to its end.
func (t *trust) done(c *check, r embedded.Range) {
	if c.useless {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked[t.next] = checked{r, c.at}
	t.next = (t.next + 1) % len(t.checked)
}
