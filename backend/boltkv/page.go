package boltkv

import (
	"time"
	"unsafe"

	"github.com/polykv/kv/backend"
)

// page is a part of a list, copied out of the file.
//
// Keys and values are copied one after the other into chunks, because to
// allocate each would cost more than all else that is done for an entry. A
// chunk has at most chunkBytes, which bounds what an entry that is kept can hold
// on to; a large entry has its own. Chunks begin small, for short lists. The
// lines have no pointers, so that the collector passes them over, and their
// memory is used again for the next page.
type page struct {
	lines   []line
	chunks  [][]byte
	open    int      // the chunk that is being filled, if there is any
	used    int      // of it
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
	chunkBytes = 8 << 10
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
	chunks, lines := p.chunks, p.lines[:0]
	if len(chunks) > 0 {
		chunk := chunks[p.open]
		clear(chunks)
		chunks = append(chunks[:0], chunk)
	}
	*p = page{lines: lines, chunks: chunks, used: p.used}
}

// add adds an entry: its key, and its value unless that is left out. The
// caller sets the rest of the line.
func (p *page) add(key string, value []byte, withValue bool) *line {
	size := len(key)
	if withValue {
		size += len(value)
	}
	n := len(p.lines)
	p.lines = append(p.lines, line{})
	l := &p.lines[n]
	l.chunk, l.key = p.room(size)
	chunk := p.chunks[l.chunk]
	l.value = l.key + int32(copy(chunk[l.key:], key))
	l.end = l.value - 1
	if withValue {
		l.end = l.value + int32(copy(chunk[l.value:], value))
	}
	p.bytes += size
	return l
}

// room returns a chunk, and where in it size bytes are free.
func (p *page) room(size int) (chunk, at int32) {
	n := len(p.chunks)
	switch {
	case size > largeEntry && n > 0:
		p.chunks = append(p.chunks, make([]byte, size))
		return int32(n), 0
	case n == 0:
		p.chunks = append(p.chunks, make([]byte, max(firstChunk, size)))
	case size > len(p.chunks[p.open])-p.used: // what is left is lost
		next := min(max(2*len(p.chunks[p.open]), 2*size), chunkBytes)
		p.chunks = append(p.chunks, make([]byte, next))
		p.open, p.used = n, 0
	}
	chunk, at = int32(p.open), int32(p.used)
	p.used += size
	return chunk, at
}

// entry is the nth entry. Its value has no capacity beyond its end, and nobody
// else has a slice of its bytes or of those of the key.
func (p *page) entry(n int) backend.Entry {
	l := &p.lines[n]
	chunk := p.chunks[l.chunk]
	e := backend.Entry{
		Key:      unsafe.String(&chunk[l.key], int(l.value-l.key)),
		Revision: l.revision,
		Created:  l.created,
	}
	if l.end >= l.value {
		e.Value = chunk[l.value:l.end:l.end]
	}
	if l.expires != 0 {
		e.Expires = time.UnixMilli(l.expires)
	}
	return e
}
