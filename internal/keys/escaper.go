package keys

import (
	"strings"
	"unicode/utf8"
)

// MaxExpansion is the most bytes that Encode makes of one: a one-byte control character takes five.
const MaxExpansion = 5

// Escaper writes canonical keys in the characters that one store accepts. The zero value is Verbatim.
type Escaper struct {
	rules rules
}

type rules uint8

const (
	verbatim rules = iota
	consul
	zooKeeper
)

// Verbatim is the Escaper of a store that takes any bytes as a key: etcd, Redis, bbolt, memory.
func Verbatim() Escaper { return Escaper{verbatim} }

// Encode returns the native form of a canonical key. It returns key itself, without an allocation, if nothing needs an
// escape.
func (e Escaper) Encode(key string) string {
	n := e.EncodedLen(key)
	if n == len(key) {
		return key // an escape is always longer than what it stands for
	}
	var b strings.Builder
	b.Grow(n)
	e.writeKey(&b, key)
	return b.String()
}

// EncodedLen returns len(Encode(key)), to be compared with the store's limit. It is at most MaxExpansion times
// len(key). It does not allocate.
func (e Escaper) EncodedLen(key string) int {
	if e.rules == verbatim || plain(key) {
		return len(key)
	}
	n := len(key)
	for segment := range strings.SplitSeq(key, "/") {
		n += e.growth(segment)
	}
	return n
}

// Decode returns the canonical key whose native form is native. It is the exact inverse of Encode: ok is false for
// every string that Encode does not produce, a string that is not canonical among them.
func (e Escaper) Decode(native string) (key string, ok bool) {
	if !IsCanonical(native) {
		return "", false
	}
	if e.rules == verbatim || plain(native) {
		return native, true
	}
	if !strings.Contains(native, introducer) {
		// Without an escape in it, native stands for itself or for nothing.
		return native, e.EncodedLen(native) == len(native)
	}
	var b strings.Builder
	b.Grow(len(native))
	for segment := range strings.SplitSeq(native, "/") {
		decoded, ok := e.DecodeSegment(segment)
		if !ok {
			return "", false
		}
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(decoded)
	}
	return b.String(), true
}

// EncodeSegment is Encode for one segment of a key.
func (e Escaper) EncodeSegment(segment string) string {
	n := e.growth(segment)
	if n == 0 {
		return segment
	}
	var b strings.Builder
	b.Grow(len(segment) + n)
	e.writeSegment(&b, segment)
	return b.String()
}

// DecodeSegment is Decode for one segment.
func (e Escaper) DecodeSegment(native string) (segment string, ok bool) {
	if strings.IndexByte(native, '/') >= 0 || !IsCanonical(native) {
		return "", false
	}
	segment = native
	if e.rules != verbatim && strings.Contains(native, introducer) {
		segment = e.unescape(native)
	}
	// Asking Encode is what makes Decode exact: an escape that was not needed, or a character that needed one and has
	// none, is found here and nowhere else.
	return segment, e.encodesTo(segment, native)
}

func (e Escaper) writeKey(b *strings.Builder, key string) {
	for {
		segment, rest, more := strings.Cut(key, "/")
		e.writeSegment(b, segment)
		if !more {
			return
		}
		b.WriteByte('/')
		key = rest
	}
}

func (e Escaper) writeSegment(b *strings.Builder, segment string) {
	if e.rules == verbatim {
		b.WriteString(segment)
		return
	}
	var escape [maxEscapeLen]byte
	done := 0
	for i := 0; i < len(segment); {
		r, width := utf8.DecodeRuneInString(segment[i:])
		if e.mustEscape(segment, i, r, width) {
			b.WriteString(segment[done:i])
			b.Write(appendEscape(escape[:0], r))
			done = i + width
		}
		i += width
	}
	b.WriteString(segment[done:])
}

// growth returns by how many bytes segment grows when it is encoded.
func (e Escaper) growth(segment string) int {
	if e.rules == verbatim {
		return 0
	}
	n := 0
	for i := 0; i < len(segment); {
		r, width := utf8.DecodeRuneInString(segment[i:])
		if e.mustEscape(segment, i, r, width) {
			n += escapeLen(r) - width
		}
		i += width
	}
	return n
}

// encodesTo reports EncodeSegment(segment) == native without building it.
func (e Escaper) encodesTo(segment, native string) bool {
	var escape [maxEscapeLen]byte
	for i := 0; i < len(segment); {
		r, width := utf8.DecodeRuneInString(segment[i:])
		if e.rules != verbatim && e.mustEscape(segment, i, r, width) {
			text := appendEscape(escape[:0], r)
			if len(native) < len(text) || native[:len(text)] != string(text) {
				return false
			}
			native = native[len(text):]
		} else {
			if len(native) < width || native[:width] != segment[i:i+width] {
				return false
			}
			native = native[width:]
		}
		i += width
	}
	return native == ""
}

// plain reports whether a canonical key obviously needs no escape in any store. Most keys are plain, and this is much
// faster than asking for each character.
func plain(key string) bool {
	for i := range len(key) {
		switch c := key[i]; {
		case c <= ' ' || c >= 0x7F || c == '=' || c == '%':
			return false
		case c == '.' && (i == 0 || key[i-1] == '/'):
			return false
		}
	}
	return true
}

// mustEscape reports whether the character r of width bytes at segment[i:] has to be escaped.
func (e Escaper) mustEscape(segment string, i int, r rune, width int) bool {
	if r == '=' {
		c, n := parseEscape(segment[i:])
		return n > 0 && e.escapes(c)
	}
	if e.rules == consul {
		return consulRefuses(segment, i, r, width)
	}
	return zooKeeperRefuses(segment, i, r)
}

// escapes reports whether r is escaped anywhere, so that an escape of it is read as one.
func (e Escaper) escapes(r rune) bool {
	switch r {
	case '=', '.':
		return true
	case ' ', '%':
		return e.rules == consul
	}
	if e.rules == consul {
		return !consulPrintable(r)
	}
	return zooKeeperForbids(r)
}

func (e Escaper) unescape(native string) string {
	var b strings.Builder
	b.Grow(len(native))
	for i := 0; i < len(native); {
		if r, n := parseEscape(native[i:]); n > 0 && e.escapes(r) {
			b.WriteRune(r)
			i += n
			continue
		}
		b.WriteByte(native[i])
		i++
	}
	return b.String()
}
