package codec

import "github.com/vmihailenco/msgpack/v5/msgpcode"

// maxMsgpackDepth is the nesting that encoding/json and protobuf allow, too.
const maxMsgpackDepth = 10000

// checkMsgpack accepts exactly one complete msgpack value: no length beyond the end, no excessive depth, nothing after
// it. It neither recurses nor, for a value of ordinary depth, allocates.
func checkMsgpack(src []byte) error {
	if len(src) == 0 {
		return errEmpty
	}
	// left holds, for each open array or map, how many elements are still to come.
	var space [32]uint64
	left := append(space[:0], 1)
	for len(left) > 0 {
		top := len(left) - 1
		if left[top] == 0 {
			left = left[:top]
			continue
		}
		left[top]--
		body, elements, rest, err := msgpackHead(src)
		if err != nil {
			return err
		}
		// An element takes a byte at least.
		if body > uint64(len(rest)) || elements > uint64(len(rest))-body {
			return errTruncated
		}
		src = rest[body:]
		if elements > 0 {
			if len(left) > maxMsgpackDepth {
				return errDepth
			}
			left = append(left, elements)
		}
	}
	if len(src) > 0 {
		return errTrailing
	}
	return nil
}

// msgpackHead reads the head of a value: how many bytes of body follow in rest, or how many elements.
func msgpackHead(src []byte) (body, elements uint64, rest []byte, err error) {
	if len(src) == 0 {
		return 0, 0, nil, errTruncated
	}
	c, rest := src[0], src[1:]
	size := 0 // of the length that follows c
	switch {
	case msgpcode.IsFixedNum(c):
		return 0, 0, rest, nil
	case msgpcode.IsFixedMap(c):
		return 0, 2 * uint64(c&msgpcode.FixedMapMask), rest, nil
	case msgpcode.IsFixedArray(c):
		return 0, uint64(c & msgpcode.FixedArrayMask), rest, nil
	case msgpcode.IsFixedString(c):
		return uint64(c & msgpcode.FixedStrMask), 0, rest, nil
	}
	switch c {
	case msgpcode.Nil, msgpcode.False, msgpcode.True:
		return 0, 0, rest, nil
	case msgpcode.Uint8, msgpcode.Int8:
		return 1, 0, rest, nil
	case msgpcode.Uint16, msgpcode.Int16, msgpcode.FixExt1:
		return 2, 0, rest, nil
	case msgpcode.FixExt2:
		return 3, 0, rest, nil
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float:
		return 4, 0, rest, nil
	case msgpcode.FixExt4:
		return 5, 0, rest, nil
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return 8, 0, rest, nil
	case msgpcode.FixExt8:
		return 9, 0, rest, nil
	case msgpcode.FixExt16:
		return 17, 0, rest, nil
	case msgpcode.Str8, msgpcode.Bin8, msgpcode.Ext8:
		size = 1
	case msgpcode.Str16, msgpcode.Bin16, msgpcode.Ext16, msgpcode.Array16, msgpcode.Map16:
		size = 2
	case msgpcode.Str32, msgpcode.Bin32, msgpcode.Ext32, msgpcode.Array32, msgpcode.Map32:
		size = 4
	default:
		return 0, 0, nil, errUnused
	}
	if len(rest) < size {
		return 0, 0, nil, errTruncated
	}
	var n uint64
	for _, b := range rest[:size] {
		n = n<<8 | uint64(b)
	}
	rest = rest[size:]
	switch c {
	case msgpcode.Array16, msgpcode.Array32:
		return 0, n, rest, nil
	case msgpcode.Map16, msgpcode.Map32:
		return 0, 2 * n, rest, nil
	case msgpcode.Ext8, msgpcode.Ext16, msgpcode.Ext32:
		n++ // the type
	}
	return n, 0, rest, nil
}
