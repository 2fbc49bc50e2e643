package embedded

import (
	"strings"

	"github.com/polykv/kv/backend"
)

// Range says how to walk a sorted keyspace for one List: from Start, as long
// as Covers holds, and at each key what Place says.
type Range struct {
	dir      string // the prefix with its slash, "" for all; or the exact key
	exact    bool
	children bool
	after    string
}

// RangeOf is the range of List(prefix, o).
func RangeOf(prefix string, o backend.ListOptions) Range {
	r := Range{children: o.Children, after: o.After}
	if prefix != "" {
		r.dir = prefix + "/"
	}
	return r
}

// Start is where to begin: no key below it is listed.
func (r Range) Start() string {
	switch {
	case r.after <= r.dir:
		return r.dir
	case r.children && strings.HasSuffix(r.after, "/"):
		return past(r.after)
	}
	return r.after + "\x00"
}

// Covers reports whether key, which is not below Start, is in the range. The
// first key that is not ends the walk.
func (r Range) Covers(key string) bool {
	if r.exact {
		return key == r.dir
	}
	return strings.HasPrefix(key, r.dir)
}

// Within reports whether all that r covers, o covers too, as keys and not as
// directories.
func (r Range) Within(o Range) bool {
	if o.children || r.Start() < o.Start() {
		return false
	}
	if r.exact || o.exact {
		return r.exact == o.exact && r.dir == o.dir || r.exact && o.Covers(r.dir)
	}
	return strings.HasPrefix(r.dir, o.dir)
}

// Place tells what to list for a key that is covered: the key itself, the
// directory that it lies in (with its slash), or nothing (""); and where to go
// on, "" for the key that follows.
func (r Range) Place(key string) (name, next string) {
	if !r.children {
		return key, ""
	}
	i := strings.IndexByte(key[len(r.dir):], '/')
	if i < 0 {
		return key, ""
	}
	name = key[:len(r.dir)+i+1]
	next = past(name)
	if name <= r.after {
		name = ""
	}
	return name, next
}

// past is the least string above all that begin with dir, which ends in a slash.
func past(dir string) string { return dir[:len(dir)-1] + "0" }

// RangeOfKey is the range that has the one key, for a watch of it.
func RangeOfKey(key string) Range { return Range{dir: key, exact: true} }
