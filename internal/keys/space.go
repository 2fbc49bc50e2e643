package keys

import (
	"slices"
	"strings"
)

// metaSuffix makes the default name of the bookkeeping out of the root's. A suffix, so that a permission that was granted
// for everything that starts with the root's name covers both, and a Redis Cluster hash tag in the root rules both.
const metaSuffix = "=kv"

// Space maps canonical keys to the native names of one store below one root, and back. Distinct keys have distinct
// names, Key is the exact inverse of Name, and no key has the name of the bookkeeping. A Space is a value; copies are
// independent and safe for concurrent use.
type Space struct {
	base     string // the root with its one trailing slash, or empty
	meta     string
	escaper  Escaper
	reserved []string // first segments below the root that are not for keys; never modified
}

// NewSpace returns the Space of everything below root. root is taken as the user wrote it, a leading slash included:
// "/traefik" and "traefik" are different roots, as they are on etcd. Only trailing slashes go. With the root "" keys
// are stored under their own names, with "/" behind one slash.
//
// On ZooKeeper with the root "/" the server's own node /zookeeper is reserved.
func NewSpace(root string, e Escaper) Space {
	s := Space{escaper: e}
	trimmed := strings.TrimRight(root, "/")
	if root != "" {
		s.base = trimmed + "/"
	}
	if trimmed != "" {
		s.meta = trimmed + metaSuffix
		return s
	}
	s.meta = s.base + metaSuffix
	s.reserved = []string{metaSuffix}
	if e.rules == zooKeeper {
		s.reserved = append(s.reserved, "zookeeper")
	}
	return s
}

// Reasons for which WithMeta and Reserve refuse a name.
const (
	ErrMetaName    Error = "the bookkeeping needs a name of its own, neither the root's nor that of a node above the root, and if below the root then directly below it"
	ErrReserveName Error = "a reserved name must be one segment that the store takes as it is and that does not end in ="
)

// WithMeta returns s with native as the name of the bookkeeping, in place of the root's name followed by "=kv". It
// may lie anywhere but at or above the root. Directly below the root it becomes a reserved segment.
func (s Space) WithMeta(native string) (Space, error) {
	native = strings.TrimRight(native, "/")
	if native == "" || native+"/" == s.base || strings.HasPrefix(s.base, native+"/") {
		return s, ErrMetaName
	}
	if old, below := s.below(s.meta); below {
		s.reserved = slices.DeleteFunc(slices.Clone(s.reserved), func(name string) bool { return name == old })
	}
	if name, below := s.below(native); below {
		if strings.Contains(name, "/") || slices.Contains(s.reserved, name) {
			return s, ErrMetaName
		}
		var err error
		if s, err = s.Reserve(name); err != nil {
			return s, err
		}
	}
	s.meta = native
	return s, nil
}

// Reserve returns s with a first segment below the root that no key is stored under. A key that begins with the
// reserved segment is stored with a "=" after it, one that begins with the segment and "=" with one more, and so on:
// with "zookeeper" reserved, the key "zookeeper/x" is stored as "zookeeper=/x".
func (s Space) Reserve(segment string) (Space, error) {
	if !IsCanonical(segment) || strings.Contains(segment, "/") || strings.HasSuffix(segment, "=") ||
		s.escaper.EncodeSegment(segment) != segment {
		return s, ErrReserveName
	}
	if !slices.Contains(s.reserved, segment) {
		s.reserved = append(slices.Clip(s.reserved), segment)
	}
	return s, nil
}

// Root returns the native name of the root itself: without a trailing slash, except for "/".
func (s Space) Root() string {
	if s.base == "/" {
		return s.base
	}
	return strings.TrimSuffix(s.base, "/")
}

// Meta returns the native name of the bookkeeping. What a driver keeps lies at this name, or below it after a "/".
func (s Space) Meta() string { return s.meta }

// Escaper returns the Escaper of s.
func (s Space) Escaper() Escaper { return s.escaper }

// Name returns the native name of a canonical key, with one allocation at most (one more for a key that begins with
// a reserved segment).
func (s Space) Name(key string) string {
	return s.build(key, "")
}

// Prefix returns the native string with which the names of exactly those keys begin that lie strictly below the
// canonical prefix: "/traefik/foo/". The empty prefix stands for the whole space. See also [Space.Reserved].
func (s Space) Prefix(prefix string) string {
	if prefix == "" {
		return s.base
	}
	return s.build(prefix, "/")
}

// NameLen returns len(Name(key)), to be compared with the store's limit.
func (s Space) NameLen(key string) int {
	n := len(s.base) + s.escaper.EncodedLen(key)
	if _, shadows := s.shadows(key); shadows {
		n++
	}
	return n
}

func (s Space) build(key, tail string) string {
	if end, shadows := s.shadows(key); shadows {
		key = key[:end] + "=" + key[end:]
	}
	n := s.escaper.EncodedLen(key)
	if n == len(key) {
		return s.base + key + tail
	}
	var b strings.Builder
	b.Grow(len(s.base) + n + len(tail))
	b.WriteString(s.base)
	s.escaper.writeKey(&b, key)
	b.WriteString(tail)
	return b.String()
}

// Key returns the canonical key whose name is native. ok is false for a name outside the root, a reserved one, and one
// that is not the name of any key: "a//b", "dir/", what is not UTF-8, an escape that Name does not write. It
// allocates only to undo an escape.
func (s Space) Key(native string) (key string, ok bool) {
	rest, below := s.below(native)
	if !below {
		return "", false
	}
	key, ok = s.escaper.Decode(rest)
	if !ok {
		return "", false
	}
	end, shadows := s.shadows(key)
	switch {
	case !shadows:
		return key, true
	case key[end-1] != '=':
		return "", false // the reserved segment itself
	}
	return key[:end-1] + key[end:], true
}

// Reserved reports whether native belongs to the bookkeeping or to a reserved segment. Key refuses such a name as well;
// Reserved tells it from a foreign name that deserves a warning.
func (s Space) Reserved(native string) bool {
	if native == s.meta || len(native) > len(s.meta) && native[len(s.meta)] == '/' && native[:len(s.meta)] == s.meta {
		return true
	}
	if len(s.reserved) == 0 {
		return false
	}
	rest, below := s.below(native)
	first, _, _ := strings.Cut(rest, "/")
	return below && slices.Contains(s.reserved, first)
}

func (s Space) below(native string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(native, s.base)
	return rest, ok && rest != ""
}

// shadows reports whether the first segment of key is a reserved name followed by any number of "=", and where it
// ends. No reserved name ends in "=", and each is stored as it is, so escaping does not touch such a segment.
func (s Space) shadows(key string) (end int, ok bool) {
	for _, name := range s.reserved {
		if !strings.HasPrefix(key, name) {
			continue
		}
		end = len(name)
		for end < len(key) && key[end] == '=' {
			end++
		}
		if end == len(key) || key[end] == '/' {
			return end, true
		}
	}
	return 0, false
}
