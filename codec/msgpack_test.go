package codec

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

func TestMsgpackNumbersInAny(t *testing.T) {
	c := Msgpack[any]()
	for _, v := range []any{int(5), int8(5), int64(5), int32(5)} {
		if got, err := c.Decode(encode(t, c, v)); got != int64(5) || err != nil {
			t.Errorf("%T came back as %T %v, %v", v, got, got, err)
		}
	}
	if got := encode(t, Msgpack[int64](), 5); len(got) != 1 {
		t.Errorf("a small integer takes %d bytes", len(got))
	}
}

// A foreign value must not make the process allocate what it announces, or overflow the stack.
func TestMsgpackHostileValues(t *testing.T) {
	for name, test := range map[string]struct {
		src  string
		want error
	}{
		"array of 4G":         {"\xdd\xff\xff\xff\xff\x01", errTruncated},
		"map of 4G":           {"\xdf\xff\xff\xff\xff\x01", errTruncated},
		"map of 2G":           {"\xdf\x80\x00\x00\x00\x01", errTruncated},
		"string of 4G":        {"\xdb\xff\xff\xff\xffx", errTruncated},
		"bytes of 4G":         {"\xc6\xff\xff\xff\xffx", errTruncated},
		"extension of 4G":     {"\xc9\xff\xff\xff\xff\x01", errTruncated},
		"short length":        {"\xdd\xff", errTruncated},
		"short extension":     {"\xd8\x01", errTruncated},
		"undefined byte":      {"\xc1", errUnused},
		"undefined, inside":   {"\x92\x01\xc1", errUnused},
		"two values":          {"\x01\x02", errTrailing},
		"nothing":             {"", errEmpty},
		"deep arrays":         {strings.Repeat("\x91", 5_000_000) + "\xc0", errDepth},
		"deep arrays, cut":    {strings.Repeat("\x91", 5_000_000), errDepth},
		"deep maps":           {strings.Repeat("\x81\xa1k", 1_000_000) + "\xc0", errDepth},
		"wide, truncated end": {"\xdc\x00\x03\x01\x02", errTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			src := []byte(test.src)
			decoders := map[string]func() error{
				"any":      func() error { _, err := Msgpack[any]().Decode(src); return err },
				"[]int":    func() error { _, err := Msgpack[[]int]().Decode(src); return err },
				"[]user":   func() error { _, err := Msgpack[[]user]().Decode(src); return err },
				"map":      func() error { _, err := Msgpack[map[string]int]().Decode(src); return err },
				"[]string": func() error { _, err := Msgpack[[]string]().Decode(src); return err },
			}
			for name, decode := range decoders {
				if err := decode(); !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", name, err, test.want)
				}
			}
		})
	}
}

func TestMsgpackDepth(t *testing.T) {
	src := strings.Repeat("\x91", maxMsgpackDepth) + "\xc0"
	if _, err := Msgpack[any]().Decode([]byte(src)); err != nil {
		t.Errorf("%d levels: %v", maxMsgpackDepth, err)
	}
	if _, err := Msgpack[any]().Decode([]byte("\x91" + src)); !errors.Is(err, errDepth) {
		t.Errorf("%d levels: %v", maxMsgpackDepth+1, err)
	}
}

// The check accepts what the library writes, of every kind and length.
func TestMsgpackCheckAccepts(t *testing.T) {
	values := []any{
		nil, true, false, 0, -1, -32, -33, 127, 128, 1 << 15, 1 << 31, 1 << 62, -1 << 62, uint64(1 << 63), float32(1), 1.5,
		map[int]int{1: 2}, struct{}{}, []any{[]any{}, map[string]any{}}, someUser(), msgpack.RawMessage("\xd4\x05x"),
	}
	for _, n := range []int{0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536} {
		values = append(values, strings.Repeat("x", n), bytes.Repeat([]byte("x"), n), make([]any, n))
		m := map[int]bool{}
		for i := range n {
			m[i] = true
		}
		values = append(values, m)
	}
	for _, size := range []string{"\xd4", "\xd5\x00", "\xd6\x00\x00\x00", "\xd7\x00\x00\x00\x00\x00\x00\x00"} {
		values = append(values, msgpack.RawMessage(size[:1]+"\x05"+size[1:]+"x"))
	}
	for _, v := range values {
		src, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkMsgpack(src); err != nil {
			t.Errorf("%T of %d bytes: %v", v, len(src), err)
		}
		if len(src) > 1 && checkMsgpack(src[:len(src)-1]) == nil {
			t.Errorf("%T of %d bytes is accepted without its last byte", v, len(src))
		}
	}
}

// The library's raw messages and the pool's buffers share nothing with what was returned before.
func TestMsgpackKeepsNothing(t *testing.T) {
	type raw struct {
		R msgpack.RawMessage
		B []byte
		S string
	}
	c := Msgpack[raw]()
	a := encode(t, c, raw{msgpack.RawMessage("\xa3abc"), []byte("abc"), "abc"})
	b := encode(t, c, raw{msgpack.RawMessage("\xa3xyz"), []byte("xyz"), "xyz"})
	first, err := c.Decode(a)
	if err != nil {
		t.Fatal(err)
	}
	clear(a)
	if _, err := c.Decode(b); err != nil {
		t.Fatal(err)
	}
	if want := (raw{msgpack.RawMessage("\xa3abc"), []byte("abc"), "abc"}); !reflect.DeepEqual(first, want) {
		t.Errorf("the first value became %q", first)
	}
}

// The library panics on these. To us they are values that do not fit their type, like any other.
func TestMsgpackPanics(t *testing.T) {
	if got, err := Msgpack[map[any]any]().Decode([]byte("\x81\x91\x01\x02")); !errors.Is(err, errShape) {
		t.Errorf("a key that cannot be hashed: %v, %v", got, err)
	}
	if got, err := Msgpack[user]().Decode([]byte("\x81\xa4Born\xc0")); !errors.Is(err, errShape) || !reflect.DeepEqual(got, user{}) {
		t.Errorf("nil for a time: %v, %v", got, err)
	}
}
