package watch

import "github.com/polykv/kv"

// span is changes of one key in a segment that are told as one.
type span struct{ first, last uint8 }

// void is a key that came and went.
var void = span{first: 1, last: 0}

// tell sets ev to what a subscriber gets of the changes of a span.
func (s *segment[T]) tell(at span, ev *kv.Event[T]) {
	c, old := &s.changes[at.last], &s.changes[at.first].Old
	switch {
	case c.New.Revision == 0:
		*ev = kv.Event[T]{Kind: kv.Deleted, Entry: kv.Entry[T]{Key: c.Key}, Prev: old}
	case old.Revision == 0:
		*ev = kv.Event[T]{Kind: kv.Created, Entry: c.New}
	default:
		*ev = kv.Event[T]{Kind: kv.Updated, Entry: c.New, Prev: old}
	}
}

// merge appends spans that tell the changes from i to before n, each key's in
// one: a key that went and came again is told twice, and one that came and went
// not at all. It looks up no key, since each change knows the one before it.
func (s *segment[T]) merge(spans []span, i, n int) []span {
	var of [segmentLen]int16 // where the span of each change is
	for j := i; j < n; j++ {
		at := int16(none)
		if b := int(s.before[j]); b >= i {
			at = of[b]
		}
		if at == none || s.changes[spans[at].last].New.Revision == 0 {
			of[j] = int16(len(spans))
			spans = append(spans, span{uint8(j), uint8(j)})
			continue
		}
		of[j] = at
		spans[at].last = uint8(j)
		if s.changes[spans[at].first].Old.Revision == 0 && s.changes[j].New.Revision == 0 {
			spans[at], of[j] = void, none
		}
	}
	return spans
}
