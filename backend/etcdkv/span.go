package etcdkv

import "bytes"

// span is a range of native keys, [from, to).
type span struct{ from, to []byte }

// everything is the end of the range that has none.
var toTheEnd = []byte{0}

// after is the least key that is greater than all that begin with p; p ends in
// a slash, or is empty.
func after(p string) []byte {
	if p == "" {
		return toTheEnd
	}
	end := []byte(p)
	end[len(end)-1]++
	return end
}

// span returns the range of everything strictly below prefix. It includes the
// bookkeeping if that lies there: see spans.
func (s *Store) span(prefix string) span {
	p := s.space.Prefix(prefix)
	if p == "" {
		return span{[]byte{0}, toTheEnd}
	}
	return span{[]byte(p), after(p)}
}

// spans returns what span does without the bookkeeping.
func (s *Store) spans(prefix string) []span {
	all := s.span(prefix)
	meta := s.space.Meta()
	if !all.has([]byte(meta)) {
		return []span{all}
	}
	below := meta + "/"
	return []span{
		{all.from, []byte(meta)},
		{[]byte(meta + "\x00"), []byte(below)},
		{after(below), all.to},
	}
}

func (sp span) has(key []byte) bool {
	return bytes.Compare(key, sp.from) >= 0 && (bytes.Equal(sp.to, toTheEnd) || bytes.Compare(key, sp.to) < 0)
}
