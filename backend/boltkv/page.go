package boltkv

import (
	"strings"
	"time"
	"unsafe"

	"github.com/polykv/kv/backend"
)

// page is a part of a list, copied out of the file.
//
// Keys and values are copied one after the other into chunks, because to
// allocate each would cost more than all else that is done for an entry. A
// chunk has at most chunkBytes, which bounds what an entry that is kept can hold
// on to; a large entry has its own. Chunks begin small, for short lists, and are
// made by a strings.Builder, which does not clear what is to be written over:
// that is a tenth of a list's time. The lines have no pointers, so that the
// collector passes them over, and their memory is used again for the next page.
type page struct {
	lines   []line
	chunks  []string
	filling strings.Builder // chunks[open], if it has a capacity
	open    int
	bytes   int      // of keys and values
	foreign []string // keys that have to be adopted before the page is right; never used again, as adopt may outlast its caller
	next    string   // where the next page begins
	done    bool     // there is none
}

// line is one entry.
type line struct {
	revision, created backend.Revision // 0 for a directory
	expires           int64            // Unix ms; 0: never, or kept alive by a lease
	chunk             int32
	key, value, end   int32 // offsets in the chunk; end is below value for no value
}

const (
	chunkBytes = 16 << 10
	firstChunk = 512
	largeEntry = chunkBytes / 8
)

// describe says what is known of the entry besides.
func (l *line) describe(r *record) {
	l.revision, l.created = r.Revision, r.Created
	if r.Lease == 0 {
		l.expires = r.Deadline
	}
}

// reset empties the page, and goes on with the chunk that has room.
func (p *page) reset() {
	clear(p.chunks)
	p.lines, p.chunks, p.open = p.lines[:0], p.chunks[:0], 0
	if p.filling.Cap() > 0 {
		p.chunks = append(p.chunks, "")
	}
	p.bytes, p.foreign, p.next, p.done = 0, nil, "", false
}

// add adds an entry: its key, and its value unless that is left out. The
// caller sets the rest of the line.
func (p *page) add(key string, value []byte, withValue bool) *line {
	if !withValue {
		value = nil
	}
	size := len(key) + len(value)
	n := len(p.lines)
	p.lines = append(p.lines, line{})
	l := &p.lines[n]
	if size > largeEntry && len(p.chunks) > 0 {
		l.chunk = int32(len(p.chunks))
		p.chunks = append(p.chunks, key+text(value))
	} else {
		p.room(size)
		l.chunk, l.key = int32(p.open), int32(p.filling.Len())
		p.filling.WriteString(key)
		p.filling.Write(value)
	}
	l.value = l.key + int32(len(key))
	l.end = l.value - 1
	if withValue {
		l.end = l.value + int32(len(value))
	}
	p.bytes += size
	return l
}

// room makes room for size bytes in the chunk that is being filled.
func (p *page) room(size int) {
	had := p.filling.Cap()
	if size <= had-p.filling.Len() {
		return
	}
	next := max(firstChunk, size)
	if had > 0 { // what is left of it is lost
		p.seal()
		p.filling.Reset()
		next = min(max(2*had, 2*size), chunkBytes)
	}
	p.open = len(p.chunks)
	p.chunks = append(p.chunks, "")
	p.filling.Grow(next)
}

// seal makes what was added ready for entry.
func (p *page) seal() {
	if p.filling.Cap() > 0 {
		p.chunks[p.open] = p.filling.String()
	}
}

// entry is the nth entry of a page that was sealed. Its value has no capacity
// beyond its end, and nobody else has a slice of its bytes or of those of the
// key.
func (p *page) entry(n int) backend.Entry {
	l := &p.lines[n]
	chunk := p.chunks[l.chunk]
	e := backend.Entry{
		Key:      chunk[l.key:l.value],
		Revision: l.revision,
		Created:  l.created,
	}
	if l.end >= l.value {
		// No key is empty, so neither is a chunk.
		e.Value = unsafe.Slice(unsafe.StringData(chunk), len(chunk))[l.value:l.end:l.end]
	}
	if l.expires != 0 {
		e.Expires = time.UnixMilli(l.expires)
	}
	return e
}
