package backendtest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/polykv/kv/backend"
)

// once reports an uncertain put that was told at two revisions. Those of
// acknowledged ones are known.
func once(made []Change, events []backend.Event) error {
	for _, c := range made {
		var told []backend.Revision
		for _, ev := range events {
			if c.Uncertain && !c.Delete && ev.Kind != backend.Deleted && bytes.Equal(ev.Value, c.Value) {
				told = append(told, ev.Revision)
			}
		}
		if len(told) > 1 {
			return fmt.Errorf("the value %q of %q was put once, and is told at revisions %d", short(c.Value), c.Key, told)
		}
	}
	return nil
}

// matching looks for a way to read the events of one key as what a watch may
// tell of its changes. The changes in the order of the writer leave choices
// open: an uncertain one may have been applied at any time after, or never,
// and where the store merges, any may have been skipped.
type matching struct {
	v       *Validator
	began   bool // the key was there
	changes []Change
	events  []backend.Event
	seen    map[point]bool // tried in vain
}

// point is how far a reading has come.
type point struct {
	change, event int
	// late is how many of the uncertain deletes before change may still come.
	// Which of them comes does not matter. Puts need no number: each has a
	// value, which is told once.
	late    int
	skipped skipped
}

// skipped is how the state that the stream told differs from the store's, by
// changes that were merged into what is to come.
type skipped uint8

const (
	nothing  skipped = iota
	put              // there is a newer value
	removal          // the key is gone
	recreate         // the key went, and is there again
)

// begins tries each point in the changes at which the watch may have begun.
func (m *matching) begins() bool {
	if !m.v.Options.Snapshot {
		return m.from(point{})
	}
	existing := len(m.events) > 0 && m.events[0].Kind == backend.Existing
	absent := true // by the acknowledged changes
	late := 0
	for i := range len(m.changes) + 1 {
		if i > 0 {
			switch c := m.changes[i-1]; {
			case c.Uncertain && c.Delete:
				late++
			case !c.Uncertain:
				absent = c.Delete
			}
		}
		after := m.afterSnapshot(i) // an entry of the list may be newer than the mark, but no entry is none
		switch {
		case existing && (i > 0 && m.matches(m.changes[i-1], m.events[0]) || !after && m.late(i, m.events[0])):
			if m.from(point{change: i, event: 1, late: late}) {
				return true
			}
		case !existing && !after && absent:
			if m.from(point{change: i, late: late}) {
				return true
			}
		case !existing && !after && late > 0: // one that came late has removed it
			if m.from(point{change: i, late: late - 1}) {
				return true
			}
		}
		if after {
			break
		}
	}
	return false
}

// afterSnapshot reports whether the change before i was made after the
// snapshot, so that it has an event.
func (m *matching) afterSnapshot(i int) bool {
	if i == 0 || !m.v.Caps.Lossless {
		return false
	}
	c := m.changes[i-1]
	return !c.Delete && !c.Uncertain && c.Revision > m.v.snapshot
}

// late reports whether ev may be an uncertain put that was made before change i.
func (m *matching) late(i int, ev backend.Event) bool {
	for _, c := range m.changes[:i] {
		if c.Uncertain && !c.Delete && m.matches(c, ev) {
			return true
		}
	}
	return false
}

func (m *matching) matches(c Change, ev backend.Event) bool {
	if c.Delete || ev.Kind == backend.Deleted {
		return c.Delete && ev.Kind == backend.Deleted
	}
	return bytes.Equal(c.Value, ev.Value) && (c.Uncertain || c.Revision == ev.Revision)
}

// from reports whether the events from p on can be read as the changes from p
// on.
func (m *matching) from(p point) bool {
	if m.seen[p] {
		return false
	}
	m.seen[p] = true
	present := m.began
	if p.event > 0 {
		present = m.events[p.event-1].Kind != backend.Deleted
	}
	if p.change == len(m.changes) && p.event == len(m.events) && p.skipped == nothing {
		return true
	}
	if p.event < len(m.events) && m.tells(p, present) {
		return true
	}
	// An uncertain delete that comes now, and that the stream merges with what
	// it has not told. Where the key is there in the stream it has a Deleted.
	if p.late > 0 && !present && p.skipped == put && !m.v.Caps.Lossless && m.from(point{p.change, p.event, p.late - 1, nothing}) {
		return true
	}
	if p.change == len(m.changes) {
		return false
	}
	c := m.changes[p.change]
	if c.Uncertain {
		late := p.late
		if c.Delete {
			late++
		}
		if m.from(point{p.change + 1, p.event, late, p.skipped}) {
			return true
		}
	}
	if m.v.Caps.Lossless {
		return false
	}
	next := put
	switch {
	case c.Delete && present:
		next = removal
	case c.Delete:
		next = nothing
	case p.skipped == removal || p.skipped == recreate:
		next = recreate
	}
	return m.from(point{p.change + 1, p.event, p.late, next})
}

// tells reports whether the next event, and those after it, can be read as
// changes from p on. present is whether the stream has told that the key is
// there.
func (m *matching) tells(p point, present bool) bool {
	ev := m.events[p.event]
	// A key that is there in the stream and was deleted meanwhile needs its
	// Deleted before anything else.
	if present && (p.skipped == removal || p.skipped == recreate) && ev.Kind != backend.Deleted {
		return false
	}
	if p.change < len(m.changes) && m.matches(m.changes[p.change], ev) && m.from(point{p.change + 1, p.event + 1, p.late, nothing}) {
		return true
	}
	if ev.Kind == backend.Deleted {
		return p.late > 0 && m.from(point{p.change, p.event + 1, p.late - 1, nothing})
	}
	return m.late(p.change, ev) && m.from(point{p.change, p.event + 1, p.late, nothing})
}

func printChanges(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		switch {
		case c.Delete:
			b.WriteString("delete")
		default:
			fmt.Fprintf(&b, "%q@%d", short(c.Value), c.Revision)
		}
		if c.Uncertain {
			b.WriteString("?")
		}
		b.WriteString(", ")
	}
	return b.String()
}

func printEvents(events []backend.Event) string {
	var b strings.Builder
	for _, ev := range events {
		fmt.Fprintf(&b, "%v %q@%d, ", ev.Kind, short(ev.Value), ev.Revision)
	}
	return b.String()
}
